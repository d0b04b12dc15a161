"""Folders that are wrong: one line that says how, at once, in little memory."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from dllm_jax import errors
from dllm_jax.hf import load
from dllm_jax.runtime import sharding
from tests.hf import malformed

REPO = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def folders(shared_dir, tmp_path_factory):
  """{case: its folder}."""
  root = tmp_path_factory.mktemp('malformed')
  for number, case in enumerate(malformed.CASES):
    source = shared_dir / 'golden' / 'llada_tiny'
    malformed.build(case, source, root / str(number))
  return root


@pytest.mark.parametrize('case', malformed.CASES)
def test_one_line_says_how(folders, case):
  folder = folders / str(list(malformed.CASES).index(case))
  mesh = sharding.make_mesh(sharding.MeshConfig())
  line = malformed.CASES[case][1]
  with pytest.raises(errors.UserError, match=line) as raised:
    load.load(load.read(folder), mesh)
  text = str(raised.value)
  assert text.isprintable() and len(text) < 600
  assert str(folder) in text


def test_within_two_seconds_and_a_gibibyte(folders):
  done = subprocess.run(
    [sys.executable, '-m', 'tests.hf.malformed', str(folders)],
    cwd=REPO,
    env=os.environ | {'PYTHONPATH': str(REPO), 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  seconds = json.loads(done.stdout)
  assert seconds.keys() == malformed.CASES.keys()
  assert max(seconds.values()) < 2, max(seconds.items(), key=lambda x: x[1])


def test_nothing_is_run_and_a_notice_is_given(shared_dir, tmp_path):
  source = shared_dir / 'golden' / 'llada_tiny'
  folder = tmp_path / 'model'
  folder.mkdir()
  for name in ('config.json', malformed.WEIGHTS):
    (folder / name).write_bytes((source / name).read_bytes())
  trap = f'open({str(tmp_path / "ran")!r}, "w").close()\n'
  for name in ('modeling_llada.py', 'configuration_llada.py', 'setup.py'):
    (folder / name).write_text(trap)
  record = load.read(folder).record
  mesh = sharding.make_mesh(sharding.MeshConfig())
  load.load(load.read(folder), mesh)
  assert 'auto_map' in record.notices[0]
  assert not (tmp_path / 'ran').exists()


def test_a_snapshot_of_the_hubs_cache_links_to_its_blobs(shared_dir, tmp_path):
  source = shared_dir / 'golden' / 'llada_tiny'
  folder = tmp_path / 'models--a--b' / 'snapshots' / ('0' * 40)
  folder.mkdir(parents=True)
  blobs = tmp_path / 'models--a--b' / 'blobs'
  blobs.mkdir()
  for name in ('config.json', malformed.WEIGHTS):
    (blobs / f'sum-{name}').write_bytes((source / name).read_bytes())
    (folder / name).symlink_to(f'../../blobs/sum-{name}')
  assert load.read(folder).record.family == 'llada'
  mesh = sharding.make_mesh(sharding.MeshConfig())
  assert load.load(load.read(folder), mesh)[0].cfg.num_layers == 2
