"""The model of docs/add_a_model.md decodes, and pads as it should."""

import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import types
from tests.docs import pages


@pytest.fixture
def page(tmp_path, monkeypatch):
  """What decode.py leaves in its namespace."""
  for path, text in pages.files('add_a_model.md').items():
    (tmp_path / path).write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  yield runpy.run_path(str(tmp_path / 'decode.py'))
  del sys.modules['window_model']


def test_it_decodes_and_pads(page, capsys):
  trajectory = page['trajectory']
  assert isinstance(page['denoiser'], types.Denoiser)
  assert trajectory.tokens.shape == (2, 8)
  assert not (np.asarray(trajectory.tokens) == 0).any()
  assert int(trajectory.num_steps[0]) == 4

  canvas, query = page['canvas'], jnp.arange(11)[None].repeat(2, 0)
  logits = page['denoiser'](page['params'], *canvas, query)
  wider = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (5, 0))), canvas)
  again = page['denoiser'](page['params'], *wider, query + 5)
  real = np.asarray(canvas.attention_mask)
  np.testing.assert_allclose(logits[real], again[real], atol=1e-6)
