"""Speculative decoding of prompts with any causal model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dllm_jax import model as model_lib
from dllm_jax.eval import speculation
from dllm_jax.run import prompt_file
from dllm_jax.run import speculation as run_speculation
from dllm_jax.runtime import console

PROMPTS = (
  'The capital of France is',
  'Question: A box holds 12 eggs. How many eggs do 7 boxes hold?\nAnswer:',
  'def fibonacci(n):\n  """The n-th Fibonacci number."""\n',
  'Once upon a time there was a small fox who',
  'The three most important things about writing clear code are',
  'In 1969, for the first time in history,',
  'Water boils at a lower temperature on a mountain because',
  'Dear Anna,\nthank you very much for your letter. I was glad to hear that',
)


def speculative(
  model: model_lib.Model,
  requests: Sequence[prompt_file.Request] | None,
  cfg: speculation.StudyConfig,
  screen: console.Console,
) -> dict[str, Any]:
  """What `launch/train.py` writes to speculation.json, of any model.

  Args:
    model: with its parameters.
    requests: prompts; None takes `PROMPTS`.
    cfg: what to compare; not its number of prompts.
    screen: where progress goes.

  Raises:
    errors.UserError: it is a model that cannot be decoded so, or has no
      tokenizer for the prompts.
  """
  prompts = PROMPTS
  if requests is not None:
    prompts = [r.ids if r.text is None else r.text for r in requests]
  cfg = dataclasses.replace(cfg, num_prompts=len(prompts))
  run_speculation.check(cfg, model.denoiser, model.mesh)
  template = model.prompt_template(None)
  ids = [model.encode(prompt, template) for prompt in prompts]
  rows, decoders = [], cfg.decoders()
  with screen.stage('speculative decoding', len(decoders)) as bar:
    study = speculation.Study(
      model.denoiser,
      model.params,
      ids,
      cfg,
      vocab=model.vocab,
      mesh=model.mesh,
    )
    for decoder in decoders:
      rows.append(study.compare(decoder)[0])
      bar.add()
  return study.summary() | {'rows': rows}
