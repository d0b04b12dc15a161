"""Speculative decoding of prompts with any causal model."""

from collections.abc import Sequence
from typing import Any

from dllm_jax import errors, types
from dllm_jax import model as model_lib
from dllm_jax.eval import speculation
from dllm_jax.run import prompt_file
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
  """The result of `eval.speculation.study`.

  Args:
    model: with its parameters.
    requests: prompts; None takes `PROMPTS`.
    cfg: what to compare.
    screen: where progress goes.

  Raises:
    errors.UserError: it is a model that cannot be decoded so, or has no
      tokenizer for the prompts.
  """
  if not isinstance(model.denoiser, types.LayeredLM):
    raise errors.UserError(
      f'{model.name} is no causal model, which suite speculative needs'
    )
  prompts = PROMPTS
  if requests is not None:
    prompts = [r.ids if r.text is None else r.text for r in requests]
  template = model.prompt_template(None)
  with screen.stage('speculative decoding', len(cfg.decoders())) as bar:
    return speculation.study(
      model.denoiser,
      model.params,
      [model.encode(prompt, template) for prompt in prompts],
      cfg,
      vocab=model.vocab,
      mesh=model.mesh,
      advance=bar.step,
    )
