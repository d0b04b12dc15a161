"""Multiple choice by likelihood: by hand, and whole evaluations."""

import io
import json

import numpy as np
import pytest

from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.eval import choices
from dllm_jax.run import evaluate_choices
from dllm_jax.runtime import console
from dllm_jax.tasks import multiple_choice, task
from tests import tiny_pretrained, tiny_run

CLOZES = [
  task.Cloze('Q: a?\nA:', [' yes', ' not at all'], 1),
  task.Cloze('Q: b?\nA:', [' one', ' two', ' three'], 0),
]


def test_pairs_are_the_options_in_order():
  assert choices.pairs(CLOZES) == [
    ('Q: a?\nA:', ' yes'),
    ('Q: a?\nA:', ' not at all'),
    ('Q: b?\nA:', ' one'),
    ('Q: b?\nA:', ' two'),
    ('Q: b?\nA:', ' three'),
  ]


def test_choices_by_hand():
  """' not at all' has 10 characters: -4 / 10 > -3 / 3."""
  judged = choices.judge(CLOZES, [-3.0, -4.0, -1.0, -2.0, -6.0])
  assert [j['chosen'] for j in judged] == [0, 0]
  assert [j['chosen_per_character'] for j in judged] == [1, 0]
  got = choices.summary(judged)
  assert (got['accuracy'], got['accuracy_per_character']) == (0.5, 1.0)
  np.testing.assert_allclose(got['interval'], 1.96 * 0.5 / np.sqrt(2))
  np.testing.assert_allclose(got['chance'], (1 / 2 + 1 / 3) / 2)
  with pytest.raises(ValueError, match='of every option'):
    choices.judge(CLOZES, [-3.0])


def test_the_cloze_of_a_question():
  row = {'question': 'What?', 'options': ['a bee', 'an ant'], 'answer': 'B'}
  own = multiple_choice.MultipleChoice(name='aqua')
  assert own.cloze(row) == task.Cloze(
    'Question: What?\nAnswer:', [' a bee', ' an ant'], 1
  )


@pytest.mark.parametrize('is_causal', [True, False])
def test_an_evaluation(shared_dir, tmp_path, is_causal):
  """Its log-likelihoods are those of `Model.loglikelihood`."""
  make = tiny_pretrained.qwen3 if is_causal else tiny_pretrained.dream
  folder = make(shared_dir, tmp_path / 'model')
  own = {'model__causal': True, 'rollout__decode': 'autoregressive'}
  values = tiny_run.values(
    'sft' if is_causal else 'diffu_grpo',
    task={'name': 'openbookqa'},
    data_dir=str(shared_dir / 'data'),
    base__path=str(folder),
    data__num_test=3,
    rollout__max_prompt_length=600,
    mesh__data=1,
    **(own if is_causal else {'method__reward': {}}),
  )
  out, screen = tmp_path / 'found.json', io.StringIO()
  found = evaluate_choices.evaluate_choices(
    values,
    folder,
    None,
    num_canvases=4,
    out=out,
    screen=console.Console(file=screen),
  )
  assert json.loads(out.read_text()) == found
  assert (found['num'], found['chance']) == (3, 0.25)
  assert found['num_canvases'] == (None if is_causal else 4)
  assert 'by likelihood: accuracy' in screen.getvalue()
  lines = (tmp_path / 'found.choices.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  pairs = [(r['prompt'], f' {o}') for r in rows for o in r['options']]
  model = model_lib.Model.open(folder)
  want = model.loglikelihood(pairs, num_samples=4, seed=values['seed'])
  got = [logp for row in rows for logp in row['logp']]
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_a_task_without_options_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match='has no options to compare'):
    evaluate_choices.evaluate_choices(
      tiny_run.values(),
      tmp_path,
      None,
      num_canvases=1,
      out=None,
      screen=console.Console(file=io.StringIO()),
    )
