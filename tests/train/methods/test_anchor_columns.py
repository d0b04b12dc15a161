"""The anchors of the shipped configurations are where demonstrations answer."""

import pytest

from configs import ag_grpo
from dllm_jax.rollout import answer_guided
from dllm_jax.run import settings
from dllm_jax.text import tokenizer as tokenizer_lib

ROW = {
  'id': 'r',
  'numbers': [12, 5, 3],
  'target': 14,
  'solution': '12 + 5 - 3',
  'num_solutions': 4,
}


@pytest.mark.parametrize('preset', ['', 'equations'])
def test_anchor_and_demonstration_share_their_columns(preset):
  cfg = settings.from_config(ag_grpo.get_config(preset).to_dict())
  tokenizer = tokenizer_lib.Tokenizer.from_words(cfg.task.words())
  length = cfg.rollout.decoder.gen_length
  shown = tokenizer.encode(cfg.task.demonstration(ROW))
  shown += [tokenizer.eos_token] * (length - len(shown))
  (anchor,) = answer_guided.anchors(
    cfg.task, tokenizer, [ROW], cfg.method.guided
  )
  assert shown[length - len(anchor) :] == anchor
  assert len(anchor) == cfg.method.guided.max_anchor
