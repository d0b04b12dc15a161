"""Completions of a finished run that a person can replay: trajectories.jsonl.

A few held-out problems, each under the base and the final policy, as they were
evaluated: the first ones that RL fixed, that it broke, that both solve and that
neither does. A row of the file is a problem:

  {"id", "kind", "prompt", "gold", "block_length", "samples": [{"policy",
   "decoding", "pieces", "commit_step", "confidence", "num_steps", "length",
   "correct", "steps", "rewards"}, ...]}

`pieces` are the texts of the tokens, `length` counts those up to the end of the
text, and `rewards` are those of the partial texts after `steps` (1-based);
there are none where nothing was trained on a reward.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dllm_jax import types
from dllm_jax.analysis import policies
from dllm_jax.eval import accuracy
from dllm_jax.rollout import context, score, score_steps
from dllm_jax.run import replay, settings
from dllm_jax.state import workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import policy_config

FILE, VERDICTS_FILE = 'trajectories.jsonl', 'verdicts.json'
NUM_EACH = 3  # problems of each kind
# Partial texts that are scored, of a completion; fewer where verdicts are
# expensive, which is where they are computed together.
MAX_SCORES, MAX_BATCH_SCORES = 32, 4
# (base is right, final is right): what the problem is an example of.
KINDS = {
  (False, True): 'fixed',
  (True, False): 'broken',
  (True, True): 'both right',
  (False, False): 'both wrong',
}


class Evaluations(NamedTuple):
  """By policy: its evaluations by plain decoders, and by thresholds."""

  plain: Mapping[str, Mapping[int | str, accuracy.Evaluation]]
  gated: Mapping[str, Mapping[float, accuracy.Evaluation]]


class Shown(NamedTuple):
  """A policy under one decoding."""

  policy: str
  decoding: str
  evaluation: accuracy.Evaluation


def choose(
  evaluations: Evaluations, setting: int | str, threshold: float | None
) -> list[Shown]:
  """What is replayed side by side: the base first, the final policy last.

  Args:
    evaluations: evaluations of all policies.
    setting: the chosen plain decoder; the base is shown under it.
    threshold: the chosen gate; where there is one the final policy is shown
      under it, and the base too.
  """
  words = policies.in_words(str(setting))
  if isinstance(setting, int):
    words = f'fixed, {words}'
  plain = lambda name: Shown(name, words, evaluations.plain[name][setting])
  if threshold is None:
    return [plain('base'), plain('final')]
  gated = lambda name: Shown(
    name, f'gated at {threshold:g}', evaluations.gated[name][threshold]
  )
  return [plain('base'), gated('base'), gated('final')]


def pick(base: np.ndarray, final: np.ndarray) -> Iterator[tuple[int, str]]:
  """(row, kind) of the first `NUM_EACH` rows of each kind, kind by kind.

  Args:
    base: verdict of the base on each row; above 0 is right.
    final: verdict of the final policy on each row.
  """
  for (before, after), kind in KINDS.items():
    rows = np.flatnonzero(((base > 0) == before) & ((final > 0) == after))
    yield from ((int(row), kind) for row in rows[:NUM_EACH])


def write(
  directory: pathlib.Path,
  ctx: context.Context,
  cfg: settings.Settings,
  rows: Sequence[task_lib.Row],
  shown: Sequence[Shown],
) -> None:
  """Writes the file; see the module.

  Args:
    directory: workdir of the run.
    ctx: the run.
    cfg: its settings.
    rows: the held-out rows.
    shown: from `choose`.
  """
  first, last = shown[0].evaluation, shown[-1].evaluation
  width = cfg.rollout.decoder.gen_length
  if not cfg.is_causal:
    width = cfg.decoders['fixed'].block_length
  picked = [
    (row, kind)
    for row, kind in pick(first.correct, last.correct)
    if first.judged[row] and last.judged[row]
  ]
  index = [row for row, _ in picked]
  is_verified = isinstance(cfg.method, policy_config.GroupConfig)
  reward = cfg.method.reward if is_verified else None
  samples = [
    _samples(ctx, reward, [rows[i] for i in index], index, part)
    for part in shown
  ]
  with (directory / FILE).open('w', encoding='utf-8') as file:
    for place, (row, kind) in enumerate(picked):
      own = [part[place] for part in samples]
      file.write(line(ctx, rows[row], kind, width, own))


def line(
  ctx: context.Context,
  row: task_lib.Row,
  kind: str,
  block_length: int,
  samples: Sequence[Mapping[str, Any]],
) -> str:
  """The line of one problem."""
  record = {
    'id': row['id'],
    'kind': kind,
    'prompt': ctx.task.prompt(row) + ctx.prefill,
    'gold': ctx.task.gold(row),
    'block_length': block_length,
    'samples': samples,
  }
  return json.dumps(record) + '\n'


def sample(
  ctx: context.Context,
  policy: str,
  decoding: str,
  made: types.Trajectory,
  i: int,
  correct: bool,
) -> dict[str, Any]:
  """Row `i` of a trajectory as a sample, without rewards."""
  tokens = made.tokens[i]
  length = score.completion_mask(tokens[None], ctx.vocab.stop_tokens)
  return {
    'policy': policy,
    'decoding': decoding,
    'pieces': replay.pieces(ctx.tokenizer, tokens.tolist()),
    'commit_step': made.commit_step[i].tolist(),
    'confidence': np.exp(made.logp[i]).round(4).tolist(),
    'num_steps': int(made.num_steps[i]),
    'length': int(length.sum()),
    'correct': correct,
    'steps': [],
    'rewards': [],
  }


def _samples(
  ctx: context.Context,
  reward: score.RewardConfig | None,
  rows: Sequence[task_lib.Row],
  index: Sequence[int],
  shown: Shown,
) -> list[dict[str, Any]]:
  """The picked rows of one evaluation, ready to be written."""
  if not rows:
    return []
  evaluation = shown.evaluation
  trajectory = types.Trajectory(
    *(
      x[index]
      for x in (evaluation.tokens, evaluation.logp, evaluation.commit_step)
    ),
    num_steps=evaluation.num_steps[index],
  )
  paths = [score_steps.Path([], [], [])] * len(rows)
  if reward is not None:
    is_batch = isinstance(ctx.task, task_lib.BatchScorer)
    paths, _ = score_steps.paths(
      ctx,
      score.Samples(rows, trajectory, group_id=np.arange(len(rows))),
      reward,
      max_scores=MAX_BATCH_SCORES if is_batch else MAX_SCORES,
    )
  return [
    sample(ctx, shown.policy, shown.decoding, trajectory, i, correct)
    | {
      'steps': paths[i].steps,
      'rewards': [_number(value) for value in paths[i].rewards],
    }
    for i, correct in enumerate(evaluation.correct[index].astype(bool).tolist())
  ]


def _number(value: float) -> float | None:
  """Rounded for reading; None where the verifier failed."""
  return round(float(value), 4) if np.isfinite(value) else None


def write_verdicts(
  path: pathlib.Path,
  rows: Sequence[task_lib.Row],
  evaluations: Evaluations,
) -> None:
  """Who solved which problem, so that runs can be compared problem by problem.

  {"ids": [...], POLICY: {"fixed": {STEPS: "0110..."}, "gated": {THRESHOLD:
  ...}}}; a digit a problem, in the order of the ids, '-' without a verdict. Of
  causal models, 'autoregressive' is in place of STEPS.
  """
  digits = lambda x: {
    str(setting): ''.join(
      '01'[int(right)] if judged else '-'
      for right, judged in zip(e.correct, e.judged, strict=True)
    )
    for setting, e in x.items()
  }
  verdicts = {
    name: {
      'fixed': digits(evaluations.plain[name]),
      'gated': digits(evaluations.gated[name]),
    }
    for name in evaluations.plain
  }
  workdir.write_json(path, {'ids': [row['id'] for row in rows]} | verdicts)
