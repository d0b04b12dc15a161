"""Published evaluation protocols, as data.

One record for each: what its code fixes of decoding, examples, template and
likelihoods, by task. docs/evaluation.md has the file and line of every value,
and says which could not be verified. What a protocol does not say is None, and
is then the config's.

Prompts are not a part of them: those of this library's tasks are its own. The
evaluation harness (`integrations/lm_eval.py`) has the published ones of
EleutherAI.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dllm_jax import errors
from dllm_jax.eval.masked_likelihood import Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """How one task is evaluated.

  Attributes:
    decode: name of the decoder; None where nothing is decoded.
    fields: its fields, as pairs of a name and a value.
    num_fewshot: examples before the question.
    chat: whether the question is put into the chat template.
    bos: whether a prompt without that template begins with BOS.
    prefill: text that the answer begins with, as part of the prompt.
    parity: whether the verdicts are those of d1's evaluation (`task.parity`).
    likelihood: how the likelihood of options is estimated; None where they are
      not compared.
  """

  decode: str | None = None
  fields: tuple[tuple[str, Any], ...] = ()
  num_fewshot: int | None = None
  chat: bool = False
  bos: bool = False
  prefill: str = ''
  parity: bool = False
  likelihood: Estimate | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
  """A published evaluation.

  Attributes:
    name: the key in `PROFILES`.
    models: what it evaluates.
    source: repository and files.
    tasks: protocols by task, as pairs. Tasks that the library does not have are
      the harness's.
  """

  name: str
  models: str
  source: str
  tasks: tuple[tuple[str, Protocol], ...]

  def record(self, task: str) -> dict[str, Any]:
    """What a results file says of it."""
    about = {'name': self.name, 'models': self.models, 'source': self.source}
    protocol = dataclasses.asdict(self.protocol(task))
    return about | protocol | {'fields': dict(protocol['fields'])}

  def protocol(self, task: str) -> Protocol:
    """The protocol of a task.

    Raises:
      errors.UsageError: it has none.
    """
    tasks = dict(self.tasks)
    if task not in tasks:
      raise errors.UsageError(
        f'profile {self.name} has no protocol for {task!r}; it has '
        f'{", ".join(tasks)}'
      )
    return tasks[task]


def _fields(base: Mapping[str, Any], **values: Any) -> tuple:
  return tuple((dict(base) | values).items())


# Every call reads the whole canvas.
_UNCACHED = {
  'cache': 'none',
  'refresh_every': 0,
  'vicinity': 0,
  'published': 'none',
}
# Greedy, the most confident tokens first, equally many a step.
_LLADA = _UNCACHED | {
  'order': 'confidence',
  'schedule': 'even',
  'temperature': 0.0,
  'tempered': False,
  'top_p': 1.0,
  'suppress_eos': False,
  'eos_rule': 'none',
  'cfg_scale': 0.0,
}
# One block, by the entropy of the tempered nucleus, Dream's schedule.
_DREAM = _LLADA | {'order': 'entropy', 'schedule': 'linear', 'tempered': True}
# All above the threshold, at least one.
_GATED = _UNCACHED | {
  'gate': 'threshold',
  'min_commits': 1,
  'temperature': 0.0,
  'top_p': 1.0,
  'cfg_scale': 0.0,
}


def _length(length: int, block: int | None = None, steps: int | None = None):
  """Fields of a length: one token a step, one block, unless said otherwise."""
  return {
    'gen_length': length,
    'block_length': block or length,
    'num_steps': steps or length,
  }


def _llada_base(num_fewshot: int) -> Protocol:
  return Protocol(
    decode='fixed',
    fields=_fields(_LLADA, **_length(1024)),
    num_fewshot=num_fewshot,
  )


def _llada_choices(num_fewshot: int, cfg_scale: float, samples: int = 128):
  return Protocol(
    num_fewshot=num_fewshot,
    likelihood=Estimate(
      masking='count', num_samples=samples, cfg_scale=cfg_scale or None
    ),
  )


def _llada_instruct(length: int, num_fewshot: int | None = None) -> Protocol:
  return Protocol(
    decode='fixed',
    fields=_fields(_LLADA, **_length(length), eos_rule='confidence'),
    num_fewshot=num_fewshot,
    chat=True,
  )


def _d1(prefill: str) -> Protocol:
  return Protocol(
    decode='fixed',
    fields=_fields(_LLADA, **_length(256, 32, 128)),
    num_fewshot=0,
    chat=True,
    prefill=prefill,
    parity=True,
  )


def _dream(
  length: int,
  shots: int,
  temperature: float,
  top_p: float,
  *,
  chat: bool = False,
) -> Protocol:
  return Protocol(
    decode='fixed',
    fields=_fields(
      _DREAM, **_length(length), temperature=temperature, top_p=top_p
    ),
    num_fewshot=shots,
    chat=chat,
    bos=not chat,
  )


def _fast(shots: int) -> Protocol:
  return Protocol(
    decode='gated',
    fields=_fields(
      _GATED,
      gen_length=256,
      block_length=32,
      threshold=0.9,
      inclusive=True,
      cache='dual',
      published='llada',
    ),
    num_fewshot=shots,
    chat=True,
  )


def _ta(prefill: str, *, parity: bool) -> Protocol:
  return Protocol(
    decode='gated',
    fields=_fields(
      _GATED,
      gen_length=256,
      block_length=32,
      threshold=0.8,
      inclusive=False,
    ),
    num_fewshot=0,
    chat=True,
    prefill=prefill,
    parity=parity,
  )


_REASONING, _THINK = '<reasoning>', '<think>'
_PLANNING = ('gsm8k', 'math', 'countdown', 'sudoku')

PROFILES = {
  profile.name: profile
  for profile in (
    Profile(
      name='llada_paper',
      models='LLaDA-8B-Base',
      source='ML-GSAI/LLaDA: eval_llada_lm_eval.sh, eval_llada.py',
      tasks=(
        ('gsm8k', _llada_base(5)),
        ('math', _llada_base(4)),
        ('humaneval', _llada_base(0)),
        ('mbpp', _llada_base(3)),
        ('arc_challenge', _llada_choices(0, 0.5)),
        ('hellaswag', _llada_choices(0, 0.5)),
        ('piqa', _llada_choices(0, 0.5)),
        ('truthfulqa_mc2', _llada_choices(0, 2.0)),
        ('winogrande', _llada_choices(5, 0.0)),
        ('gpqa_main_n_shot', _llada_choices(5, 0.5)),
        ('mmlu', _llada_choices(5, 0.0, samples=1)),
      ),
    ),
    Profile(
      name='llada_paper_instruct',
      models='LLaDA-8B-Instruct',
      source='ML-GSAI/LLaDA: opencompass/examples, generate.py',
      tasks=(
        ('gsm8k', _llada_instruct(512)),
        ('math', _llada_instruct(512, 0)),
        ('mbpp', _llada_instruct(256)),
      ),
    ),
    Profile(
      name='d1',
      models='LLaDA-8B-Instruct and what diffu-GRPO makes of it',
      source='dllm-reasoning/d1: eval/eval.py, eval/run_eval.sh',
      tasks=tuple((task, _d1(_REASONING)) for task in _PLANNING),
    ),
    Profile(
      name='dream_release',
      models='Dream-v0-Base-7B',
      source='DreamLM/Dream: eval/eval_dream_gen.sh, eval_dream_mc.sh, eval.py',
      tasks=(
        ('gsm8k', _dream(256, 8, 0.0, 0.9)),
        ('math', _dream(512, 4, 0.0, 0.9)),
        ('humaneval', _dream(512, 0, 0.2, 0.95)),
        ('mbpp', _dream(512, 3, 0.2, 0.9)),
        (
          'arc_challenge',
          Protocol(
            num_fewshot=0,
            likelihood=Estimate(masking='bernoulli', num_samples=128),
          ),
        ),
      ),
    ),
    Profile(
      name='dream_release_instruct',
      models='Dream-v0-Instruct-7B',
      source='DreamLM/Dream: eval_instruct/eval.sh',
      tasks=(
        ('gsm8k', _dream(256, 0, 0.1, 0.9, chat=True)),
        ('math', _dream(512, 0, 0.1, 0.9, chat=True)),
        ('humaneval', _dream(768, 0, 0.1, 0.9, chat=True)),
        ('mbpp', _dream(1024, 0, 0.1, 0.9, chat=True)),
      ),
    ),
    Profile(
      name='fast_dllm',
      models='LLaDA-8B-Instruct through the dual cache, in parallel',
      source='NVlabs/Fast-dLLM: v1/llada/eval_gsm8k.sh, eval_humaneval.sh',
      tasks=(('gsm8k', _fast(5)), ('humaneval', _fast(0))),
    ),
    Profile(
      name='ta_grpo_d',
      models='LLaDA-8B-Instruct, Dream-v0-Instruct-7B and what is trained',
      source='KimGyunYeop/TA-GRPO-d_re_implementation: eval/run_eval.sh',
      tasks=(
        *((t, _ta(_REASONING, parity=t != 'countdown')) for t in _PLANNING),
        ('humaneval', _ta(_THINK, parity=False)),
        ('mbpp', _ta(_THINK, parity=False)),
      ),
    ),
  )
}


def find(name: str, task: str) -> Protocol:
  """The protocol of a profile for a task.

  Raises:
    errors.UsageError: there is no such profile, or it has none.
  """
  if name not in PROFILES:
    raise errors.UsageError(
      f'profile {name!r}: expected one of {", ".join(PROFILES)}'
    )
  return PROFILES[name].protocol(task)
