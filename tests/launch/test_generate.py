"""launch/generate.py: recorded decodes, runs, rows and frames, or one line."""

import json
import os
import signal

import pytest

from dllm_jax.decoding import fixed
from tests import tiny, tiny_model
from tests.launch import test_eval

KEYS = [
  'id',
  'prompt_ids',
  'completion_ids',
  'text',
  'commit_step',
  'num_steps',
  'logp',
]
RECORDED = {
  'llada_g24_b12_s10': ['--steps=10', '--decode=fixed'],
  'llada_cfg0.5_g32_b16_s16': ['--steps=16', '--cfg_scale=0.5'],
  'fast_thr0.7_g32_b16': ['--decode=gated', '--threshold=0.7'],
  'tagrpo_tau0.5_g64_b32': ['--decode=gated', '--threshold=0.5'],
  'dual_g32_b8_s16': ['--steps=16', '--cache=dual', '--published=llada'],
}


@pytest.fixture(scope='module')
def llada(shared_dir):
  return shared_dir / 'golden' / 'llada_tiny'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_model.llada(tmp_path_factory.mktemp('folder') / 'm')


def generate(commands, *args):
  return commands.run('generate.py', *args, config=False)


@pytest.mark.parametrize('name', RECORDED)
def test_recorded_decodes(commands, llada, tmp_path, name):
  case = next(
    c for c in tiny.cases(llada / 'decode_cases.json') if c['name'] == name
  )
  data = {
    key.removeprefix(f'{name}.'): value
    for key, value in tiny.recorded(llada, 'decode.npz').items()
    if key.startswith(f'{name}.')
  }
  prompts = [
    row[:n].tolist()
    for row, n in zip(data['prompt'], data['prompt_len'], strict=True)
  ]
  assert len(set(map(len, prompts))) > 1
  rows = [{'id': f'r{i}', 'prompt_ids': p} for i, p in enumerate(prompts)]
  out = tmp_path / 'out.jsonl'
  command = generate(
    commands,
    f'--model={llada}',
    f'--prompts={tiny_model.write_rows(tmp_path / "in.jsonl", rows)}',
    f'--gen_length={case["gen_length"]}',
    f'--block_length={case["block_length"]}',
    '--batch_size=3',
    '--nostop_at_eos',
    f'--out={out}',
    *RECORDED[name],
  )
  assert (command.code, command.err) == (0, '')
  assert 'generating  4/4' in command.out and 'written:' in command.out
  got = tiny_model.read_rows(out)
  assert [list(row) for row in got] == [KEYS] * len(rows)
  for i, row in enumerate(got):
    assert (row['id'], row['prompt_ids'], row['text']) == (
      f'r{i}',
      prompts[i],
      None,
    )
    assert row['completion_ids'] == data['output'][i].tolist()
    assert row['commit_step'] == data['unmask_step'][i].tolist()
    assert row['num_steps'] == data['nfe'][i]


def test_one_prompt_to_the_standard_output(commands, folder):
  command = generate(
    commands, f'--model={folder}', '--prompt=dig', '--gen_length=8'
  )
  assert command.code == 0
  row = json.loads(command.out)
  assert (row['id'], row['prompt_ids']) == (0, [3, 8, 6])
  assert isinstance(row['text'], str) and len(row['completion_ids']) == 8
  assert 'generating  1/1' in command.err  # apart from the rows


def test_watch_prints_a_line_a_step(commands, folder, tmp_path):
  rows = [{'id': 'a', 'prompt': 'dig'}, {'id': 'b', 'prompt': 'feed'}]
  out = tmp_path / 'out.jsonl'
  command = generate(
    commands,
    f'--model={folder}',
    f'--prompts={tiny_model.write_rows(tmp_path / "in.jsonl", rows)}',
    '--gen_length=8',
    '--block_length=4',
    '--steps=4',
    '--cache=dual',
    '--watch',
    f'--out={out}',
  )
  assert (command.code, command.err) == (0, '')
  lines = [x for x in command.out.splitlines() if x[:2] in ('a ', 'b ')]
  assert len(lines) == 8
  for i, line in enumerate(lines):
    assert line.startswith(f'{"ab"[i // 4]}  {i % 4 + 1}/4  ')
    assert line.count('░') == 6 - 2 * (i % 4)
  for i, row in enumerate(tiny_model.read_rows(out)):
    assert row['num_steps'] == 4
    assert row['text'] in lines[4 * i + 3]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """What a run leaves, untrained."""
  return test_eval.keep_model(tmp_path_factory.mktemp('run'))


@pytest.mark.parametrize('how', [[], ['--decode=gated']])
def test_a_run_is_decoded_as_it_is_evaluated(commands, run, tmp_path, how):
  out = tmp_path / 'eval.json'
  test_eval.evaluate(commands, run, out, *how)
  want = tiny_model.read_rows(out.with_suffix('.generations.jsonl'))
  rows = [{'id': row['id'], 'prompt': row['question']} for row in want]
  out = tmp_path / 'out.jsonl'
  command = generate(
    commands,
    f'--model={run}',
    f'--prompts={tiny_model.write_rows(tmp_path / "in.jsonl", rows)}',
    f'--out={out}',
    *how,
  )
  assert (command.code, command.err) == (0, '')
  for row, other in zip(tiny_model.read_rows(out), want, strict=True):
    for key in ('id', 'completion_ids', 'commit_step', 'num_steps'):
      assert row[key] == other[key]
    assert row['text'] == other['generation']


@pytest.mark.parametrize(
  'args, code, line',
  [
    ([], 2, 'give one of --prompt TEXT and --prompts FILE'),
    (['--prompt=a', '--prompts={rows}'], 2, 'give one of --prompt TEXT'),
    (['--prompt='], 1, '--prompt: prompt is no text, or empty'),
    (['--prompts={tmp}/no'], 1, 'cannot read prompts from'),
    (['--prompts={bad}'], 1, 'bad.jsonl:2 is not valid JSON'),
    (['--prompt=z'], 1, '--prompt: the prompt has no tokens'),
    (['--prompts={rows}'], 1, 'rows.jsonl:1: prompt_ids [400] must be ids f'),
    (['--prompt=a', '--model=/nonexistent'], 1, 'there is no folder /nonexis'),
    (['--prompt=a', '--model={causal}', '--decode=gated'], 2, 'this causal m'),
    (['--prompt=a', '--model={causal}', '--steps=3'], 2, 'is not read by the'),
    (['--prompt=a', '--model={llada}'], 1, 'the model has no tokenizer'),
    (['--prompt=a', '--model={run}', '--params=base'], 1, 'it has final (--pa'),
    (['--prompt=a', '--model={run}', '--chat'], 2, 'has no chat template'),
    (['--prompt=hello', '--model={run}'], 1, '--prompt: not in the vocabula'),
    (['--prompt=a', '--params=base'], 2, '--params base is for the workdir'),
    (['--prompt=a', '--out={rows}'], 1, 'already exists; name another'),
    (['--prompt=a', '--out=/proc/x'], 1, 'cannot write to /proc/x'),
    (['--prompt=a', '--steps=0'], 2, '--steps'),
    (['--prompt=a', '--batch_size=0'], 2, '--batch_size'),
    (['--prompt=a', '--seed=-1'], 2, '--seed'),
    (['--prompt=a', '--order=best'], 2, '--order'),
    (['--prompt=a', '--decode=fast'], 2, '--decode'),
    (['--prompt=a', '--temperature=nan'], 2, 'temperature nan must be finite'),
    (['--prompt=a', '--cfg_scale=-1'], 2, 'cfg_scale -1.0 must be finite'),
    (['--prompt=a', '--gen_length=40'], 2, 'gen_length 40 is not a positive'),
    (['--prompt=a', '--threshold=0.5'], 2, 'give --decode gated'),
    (['--prompt=a', '--promt=b'], 2, "did you mean '--prompt'"),
  ],
)
def test_a_wrong_command_is_one_line(
  commands, shared_dir, llada, folder, run, tmp_path, args, code, line
):
  places = {
    'tmp': tmp_path,
    'llada': llada,
    'run': run,
    'causal': shared_dir / 'golden' / 'llama_tiny',
    'rows': tiny_model.write_rows(
      tmp_path / 'rows.jsonl', [{'id': 1, 'prompt_ids': [400]}]
    ),
    'bad': tmp_path / 'bad.jsonl',
  }
  places['bad'].write_text('{"id": 1, "prompt": "a"}\n{"id": 2,\n')
  args = [arg.format(**places) for arg in args]
  if not any(arg.startswith('--model') for arg in args):
    args.append(f'--model={folder}')
  command = generate(commands, *args)
  assert command.code == code, command.err
  assert line in command.err and command.err.startswith('generate.py: ')
  assert command.err.count('\n') == 1 and 'Traceback' not in command.err
  assert command.out == ''  # before any weight is read
  assert sorted(os.listdir(tmp_path)) == ['bad.jsonl', 'rows.jsonl']


def test_no_model(commands):
  command = generate(commands, '--prompt=a')
  assert command.code == 2 and '--model DIR is missing' in command.err


def test_a_killed_command_leaves_whole_rows(commands, folder, tmp_path):
  rows = [{'id': i, 'prompt': 'dig'} for i in range(2000)]
  out = tmp_path / 'out.jsonl'
  partial = tmp_path / 'out.jsonl.partial'
  command = commands.start(
    'generate.py',
    f'--model={folder}',
    f'--prompts={tiny_model.write_rows(tmp_path / "in.jsonl", rows)}',
    '--gen_length=64',
    '--batch_size=1',
    f'--out={out}',
    config=False,
  )
  ready = lambda: partial.exists() and partial.read_bytes().count(b'\n') >= 2
  assert command.signal_when(signal.SIGINT, ready) == 130
  assert command.err == 'interrupted\n'
  kept = tiny_model.read_rows(partial)
  assert 2 <= len(kept) < 2000 and not out.exists()
  assert [row['id'] for row in kept] == list(range(len(kept)))


def test_help_has_an_example(commands):
  command = generate(commands, '--help')
  assert command.code == 0
  assert 'launch/generate.py --model' in command.out
  for flag in ('chat', 'cfg_scale', 'watch', 'prompts'):
    assert f'--{flag}: ' in command.out
  assert f'--order: <{"|".join(fixed.ORDERS)}>' in command.out
  assert '--schedule: <even|linear>' in command.out
