"""Workdirs as a run writes them, made by hand for the tests of reports."""

import json
import pathlib

import numpy as np

ATTACK = '</script><img src=x onerror="window.attacked=1">'
NUM = 40  # held-out problems


def make(
  directory: pathlib.Path,
  *,
  seed: int = 0,
  steps: int = 30,
  method: str = 'ag_grpo',
  final: float = 0.5,
  finished: bool = True,
  **changes,
) -> pathlib.Path:
  """A workdir; `changes` are top-level keys of its config."""
  directory.mkdir(parents=True)
  config = {
    'seed': seed,
    'task': {'name': 'countdown'},
    'method': {'name': method, 'reward': {'solution': 1.0, 'valid': 0.2}},
    'train': {'num_steps': steps},
  }
  about = {
    'config': config | changes,
    'git': None,
    'versions': {'python': '3.11.7', 'jax': '0.10.2'},
    'devices': ['cpu', 'cpu'],
    'command': 'python launch/train.py --config configs/ag_grpo.py',
  }
  write(directory / 'config.json', about)
  rng = np.random.default_rng(seed)
  with (directory / 'metrics.jsonl').open('w') as file:
    for step in range(1, steps + 1):
      file.write(json.dumps(_row(rng, step, steps)) + '\n')
  if finished:
    finish(directory, final)
  return directory


def _row(rng, step, steps):
  done = step / steps
  row = {'phase': 'rl', 'step': step}
  noise = lambda: float(rng.normal(0, 0.03))
  row |= {
    'reward/mean': 0.2 + 0.4 * done + noise(),
    'reward/correct': 0.1 + 0.3 * done,
    'terms/solution': 0.2 + 0.3 * done + noise(),
    'terms/valid': 0.5 + 0.4 * done + noise(),
    'policy/kl': 0.02 * done,
    'policy/clip_fraction': 0.0,
    'policy/entropy': 0.4 - 0.1 * done + noise(),
    'group/zero_variance': 0.3,
    'rollout/num_steps': 6.0,
    'time/tokens_per_second': 4000.0 + 100 * noise(),
    'free/mean': 0.4 + noise(),
    'guided/mean': 0.3 + noise(),
  }
  if step % 10 == 0:
    row['eval/accuracy'] = 0.2 + 0.2 * done
  return row


def finish(directory: pathlib.Path, final: float) -> None:
  """The results: the base solves the first quarter, `final` the last part."""
  verdicts = {'base': '1' * 10 + '0' * 30}
  solved = round(final * NUM)
  verdicts['final'] = '0' * (NUM - solved) + '1' * solved
  results = {'task': 'countdown', 'num': NUM, 'chosen_steps': 4}
  for name, text in verdicts.items():
    accuracy = text.count('1') / NUM
    interval = 1.96 * (accuracy * (1 - accuracy) / NUM) ** 0.5
    point = {'accuracy': accuracy, 'interval': interval}
    sweep = {s: point | {'mean_steps': float(s)} for s in ('4', '2')}
    results[name] = {'sweep': sweep} | sweep['4']
  results['seconds'] = {'base': 80.0, 'rl': 126.4}
  write(directory / 'eval.json', results)
  write(
    directory / 'verdicts.json',
    {'ids': [f'r{i}' for i in range(NUM)]}
    | {
      name: {'fixed': {'4': text, '2': text}, 'gated': {}}
      for name, text in verdicts.items()
    },
  )


def sample(
  policy: str, pieces: list[str], commit_step: list[int], num_steps: int
) -> dict:
  """One trajectory; confidences count up, the reward is the step."""
  length = len(pieces)
  return {
    'policy': policy,
    'decoding': f'fixed, {num_steps} steps',
    'pieces': pieces,
    'commit_step': commit_step,
    'confidence': [(i + 1) / length for i in range(length)],
    'num_steps': num_steps,
    'length': length,
    'correct': policy == 'final',
    'steps': list(range(1, num_steps + 1)),
    'rewards': [float(step) for step in range(1, num_steps + 1)],
  }


def drafted(decoding: str, drafts: list[str | None], **changes) -> dict:
  """A completion of speculative decoding: ' 3', ' +', ' 4' and the end.

  Its rounds are tokens 0 and 1, and 2 and 3.
  """
  made = sample('final', [' 3', ' +', ' 4', ''], [0, 0, 1, 1], 2)
  made |= {'decoding': decoding, 'drafted': drafts, 'steps': [], 'rewards': []}
  return made | changes


def compared(
  decode: str, m: int, *, placeholders: int | None = None, **changes
) -> dict:
  """A row of `speculation`, where p = 1/2 and c = 1/4."""
  own = {'draft': 1, 'fractal': 2}[decode]
  law = own + {1: 0.5, 2: 0.75}[m]
  return {
    'decode': decode,
    'compression': 'int8',
    'm': m,
    'num_placeholders': placeholders,
    'use_cache': True,
    'identical': 8,
    'worst_gap': None,
    'tokens_per_round': law + 0.125,
    'predicted_tokens': law,
    'histogram': [0, 1, 3] + [0] * m,
    'calls_per_token': own / law,
    'compressed_calls_per_token': m / law,
    'tokens_per_second': 90.0,
    'speedup': 0.9 + m / 10,
    'c': 0.25,
    'cost': own + m / 2,
    'predicted_cost': own + m / 4,
  } | changes


def speculation(directory: pathlib.Path, **changes) -> dict:
  """Writes a comparison of decoders over 8 prompts, and returns it."""
  study = {
    'num': 8,
    'tokens': 64,
    'num_layers': 4,
    'agreement': {'int8': 0.5},
    'greedy': {
      'cache': {'tokens_per_second': 100.0},
      'no_cache': {'tokens_per_second': 20.0},
    },
    'rows': [
      *(compared('draft', m) for m in (1, 2)),
      *(compared('fractal', m, placeholders=1) for m in (1, 2)),
      *(compared('fractal', m, placeholders=0) for m in (1, 2)),
      *(
        compared('fractal', m, placeholders=0, use_cache=False) for m in (1, 2)
      ),
    ],
  } | changes
  write(directory / 'speculation.json', study)
  return study


def problem(kind: str, samples: list[dict], prompt: str = '3 4 = 7') -> dict:
  return {
    'id': 'r1',
    'kind': kind,
    'prompt': prompt,
    'gold': ' 3 + 4',
    'block_length': 4,
    'samples': samples,
  }


def problems(directory: pathlib.Path, rows: list[dict]) -> None:
  """Writes the trajectories."""
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (directory / 'trajectories.jsonl').write_text(text)


def write(path: pathlib.Path, value) -> None:
  path.write_text(json.dumps(value))


def agreement(directory: pathlib.Path) -> dict:
  """A problem under two phrasings; only the second column is agreed on."""
  policy = {
    'texts': [' A', ATTACK],
    'correct': [True, None],
    'scores': [[-0.05, -1.0], [-7.0, -0.5]],
  }
  problem = {
    'id': 'p0',
    'gold': ' A',
    'views': ['please A', ATTACK],
    'policies': {'base': policy, 'final': policy},
  }
  write(directory / 'agreement.json', {'problems': [problem]})
  return problem
