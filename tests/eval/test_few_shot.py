"""Examples of few-shot prompts: which, in which form, and none of the test."""

import dataclasses
import io
import json

import pytest

from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.data import leaks
from dllm_jax.eval import few_shot
from dllm_jax.run import base_model, evaluate_choices, settings, setup
from dllm_jax.runtime import console
from dllm_jax.tasks import countdown, gsm8k, multiple_choice, phrasings
from dllm_jax.tasks import rows as rows_lib
from dllm_jax.text import chat, pieces
from tests import tiny_pretrained, tiny_run

GSM8K = gsm8k.Gsm8k(prompt_style='terse')
LONG = 'one two three four five six seven eight nine ten eleven twelve thirteen'


def row(i, question, answer='7'):
  return {
    'id': f'r{i}',
    'question': question,
    'reasoning': 'Count.',
    'answer': answer,
  }


TRAIN = [
  row(0, 'How many?'),
  row(1, 'Is it  SEVEN?!'),
  row(2, f'Say {LONG}.'),
  row(3, 'What is 3 + 4?'),
  row(4, 'And 2 + 5?'),
]
TEST = [row(9, 'Is it seven?'), row(10, f'Now: {LONG}, and on')]


def ids(rows):
  return [r['id'] for r in rows]


def test_the_first_rows_that_no_test_row_repeats_are_shown():
  """r1 is a test row in another spelling, r2 shares thirteen words."""
  choose = lambda num: few_shot.choose(
    GSM8K, TRAIN, TEST, few_shot.FewShot(num=num)
  )
  assert [ids(choose(n)) for n in range(4)] == [
    [],
    ['r0'],
    ['r0', 'r3'],
    ['r0', 'r3', 'r4'],
  ]
  with pytest.raises(errors.UserError, match='only 3 of the 5 training rows'):
    choose(4)


def test_a_seed_draws_them():
  draw = lambda seed: ids(
    few_shot.choose(GSM8K, TRAIN, TEST, few_shot.FewShot(num=2, seed=seed))
  )
  assert draw(3) == draw(3)
  drawn = {tuple(draw(seed)) for seed in range(30)}
  assert len(drawn) == 6  # all ordered pairs of r0, r3, r4


def test_rows_without_words_are_compared_by_their_prompts():
  """Where the instructions are longer than what is compared of questions."""
  task = countdown.Countdown(count=3, max_number=9, prompt_style='d1')
  make = lambda i, *numbers: {
    'id': str(i),
    'numbers': list(numbers[:3]),
    'target': numbers[3],
    'solution': '',
  }
  train = [make(0, 1, 2, 3, 6), make(1, 2, 3, 4, 9), make(2, 1, 2, 4, 7)]
  test = [make(5, 2, 3, 4, 9)]
  assert leaks.question(test[0]) == ''
  found = few_shot.choose(task, train, test, few_shot.FewShot(num=2))
  assert ids(found) == ['0', '2']


def test_examples_have_the_form_of_the_task():
  assert few_shot.text(GSM8K, TRAIN[:1] + TRAIN[3:4]) == (
    f'How many?\n{GSM8K.demonstration(TRAIN[0])}\n\n'
    f'What is 3 + 4?\n{GSM8K.demonstration(TRAIN[3])}\n\n'
  )
  assert '<answer>\n7\n</answer>' in GSM8K.demonstration(TRAIN[0])
  task = multiple_choice.MultipleChoice(name='aqua')
  rows = [
    {'question': 'What?', 'options': ['a bee', 'an ant'], 'answer': 'B'},
    {'question': 'Who?', 'options': ['I', 'you'], 'answer': 'A'},
  ]
  assert few_shot.cloze_text(task, rows) == (
    'Question: What?\nAnswer: an ant\n\nQuestion: Who?\nAnswer: I\n\n'
  )


def test_examples_are_a_part_of_the_message():
  template = dataclasses.replace(
    chat.chatml('Hi.'), examples='1? 2\n\n', strip=True
  )
  before, message, after = template.render(' 3? ')
  assert (message.text, message.is_template) == ('1? 2\n\n3?', False)
  assert before.is_template and after.is_template
  plain = dataclasses.replace(chat.plain('<s>'), examples='1? 2\n\n')
  assert pieces.joined(plain.render('3?')) == '<s>1? 2\n\n3?'


RIGHT = GSM8K.demonstration(TRAIN[0])  # the answer is 7


@pytest.mark.parametrize(
  ('completion', 'kept'),
  [
    (RIGHT, RIGHT),
    (f'{RIGHT}\n\nAnd 4 + 4?\n{RIGHT.replace("7", "8")}', RIGHT),
    (f'{RIGHT}\n\n<answer>', RIGHT),
    (
      'Count.\n\nThen\n<answer>7</answer>.',
      'Count.\n\nThen\n<answer>7</answer>',
    ),
    ('</answer> <answer>7</answer> 8', '</answer> <answer>7</answer>'),
    ('<answer>7', '<answer>7'),
    ('7\n\n8', '7\n\n8'),
  ],
)
def test_the_first_answer_is_judged(completion, kept):
  """Not one to a question that the model asks itself."""
  ending = few_shot.ending(GSM8K, TRAIN[:2])
  task = few_shot.FirstAnswer(task=GSM8K, ending=ending)
  assert task.cut(completion) == kept
  want = GSM8K.score(TRAIN[0], kept)
  assert task.score(TRAIN[0], completion) == want
  assert task.score_batch(TRAIN[:1], [completion]) == [want]
  assert want.correct == ('<answer>' in kept and '</answer>' in kept[8:])


def test_answers_without_a_block_end_before_the_next_example():
  task = phrasings.Phrasings()
  rows = [task.rows('train')[i] for i in range(2)]
  ending = few_shot.ending(task, rows)
  assert ending == few_shot.SEPARATOR
  first = few_shot.FirstAnswer(task=task, ending=ending)
  gold = task.gold(rows[0])
  written = f'{gold}\n\n{task.prompt(rows[1])}{task.gold(rows[1])}'
  assert (
    first.cut(written) == gold and first.cut(f'\n\n{gold}') == f'\n\n{gold}'
  )
  assert first.score(rows[0], written).correct
  assert not task.score(rows[0], written).correct


def test_answers_of_several_paragraphs_are_judged_whole():
  task = rows_lib.Problems(verifier='exact')
  example = {'completion': 'One.\n\nTwo.', 'answer': '2'}
  assert few_shot.ending(task, [example]) == ''
  first = few_shot.FirstAnswer(task=task, ending='')
  assert first.cut('One.\n\nTwo.\n\nThree.') == 'One.\n\nTwo.\n\nThree.'
  assert first.name == 'rows'


def test_no_number_of_examples_is_negative():
  with pytest.raises(ValueError, match='num_fewshot -1'):
    few_shot.FewShot(num=-1)


def test_pairs_beyond_a_table_of_positions_are_one_line(
  shared_dir, tmp_path, monkeypatch
):
  """Before a parameter is read."""
  folder = tiny_pretrained.llada(
    tmp_path / 'model', 'dllm_jax', max_positions=64
  )
  values = tiny_run.values(
    'diffu_grpo',
    task={'name': 'openbookqa'},
    data_dir=str(shared_dir / 'data'),
    base__path=str(folder),
    data__num_test=2,
    rollout__max_prompt_length=40,
    mesh__data=1,
  )
  monkeypatch.delattr(base_model, 'load_params')
  with pytest.raises(
    errors.UserError, match='64 .max_pos.*lower --num_fewshot 2'
  ):
    evaluate_choices.evaluate_choices(
      values,
      folder,
      None,
      shots=few_shot.FewShot(num=2),
      out=None,
      screen=console.Console(file=io.StringIO()),
    )


def test_a_likelihood_evaluation_shows_examples(shared_dir, tmp_path):
  """Its log-likelihoods are those of the longer prompts."""
  folder = tiny_pretrained.qwen3(shared_dir, tmp_path / 'model')
  values = tiny_run.values(
    'sft',
    task={'name': 'openbookqa'},
    data_dir=str(shared_dir / 'data'),
    base__path=str(folder),
    data__num_test=2,
    rollout__max_prompt_length=600,
    mesh__data=1,
    model__causal=True,
    rollout__decode='autoregressive',
  )
  out, shots = tmp_path / 'found.json', few_shot.FewShot(num=2, seed=1)
  found = evaluate_choices.evaluate_choices(
    values,
    folder,
    None,
    num_canvases=4,
    shots=shots,
    out=out,
    screen=console.Console(file=io.StringIO()),
  )
  kept = json.loads(out.read_text())
  assert kept == found and kept['few_shot']['num'] == 2
  cfg = settings.from_config(values)
  train = setup.load_examples(cfg)
  chosen = few_shot.choose(cfg.task, train, setup.load_test(cfg), shots)
  assert kept['few_shot'] == {'num': 2, 'seed': 1, 'ids': ids(chosen)}
  before = few_shot.cloze_text(cfg.task, chosen)
  lines = (tmp_path / 'found.choices.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert all(r['prompt'].startswith(before + 'Question: ') for r in rows)
  pairs = [(r['prompt'], f' {o}') for r in rows for o in r['options']]
  want = model_lib.Model.open(folder).loglikelihood(pairs)
  got = [logp for r in rows for logp in r['logp']]
  assert got == pytest.approx(want, rel=1e-4)
