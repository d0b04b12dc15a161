"""The evaluation harness on tiny folders, offline, over tasks of our own."""

import json
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

pytest.importorskip('lm_eval', reason='lm_eval is not installed: extra `eval`')

import lm_eval  # noqa: E402
from lm_eval import tasks as harness_tasks  # noqa: E402
from lm_eval.api import instance  # noqa: E402

import dllm_jax  # noqa: E402
from dllm_jax import errors  # noqa: E402
from dllm_jax.eval import masked_likelihood, profiles  # noqa: E402
from dllm_jax.integrations import lm_eval as adapter  # noqa: E402
from dllm_jax.runtime import sharding  # noqa: E402
from tests import tiny, tiny_pretrained  # noqa: E402

pytestmark = pytest.mark.filterwarnings('default')
WORDS = 'the cat sat on the mat and the dog ran to the old red barn'
TEMPLATE = (
  '{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}'
  '{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant] '
  '{% endif %}'
)
MC = """
  task: tiny_mc
  dataset_path: json
  dataset_kwargs: {data_files: {test: DATA/mc.jsonl, train: DATA/mc.jsonl}}
  output_type: multiple_choice
  test_split: test
  fewshot_split: train
  doc_to_text: "{{question}}"
  doc_to_choice: "{{choices}}"
  doc_to_target: "{{answer}}"
  metric_list: [{metric: acc}, {metric: acc_norm}]
"""
GENERATE = """
  task: tiny_gen
  dataset_path: json
  dataset_kwargs: {data_files: {test: DATA/mc.jsonl}}
  output_type: generate_until
  test_split: test
  doc_to_text: "{{question}}"
  doc_to_target: "{{choices[answer]}}"
  generation_kwargs: {until: ["e", "zz"], max_gen_toks: 12, do_sample: false}
  metric_list: [{metric: exact_match}]
"""
TEXT = """
  task: tiny_text
  dataset_path: json
  dataset_kwargs: {data_files: {test: DATA/mc.jsonl}}
  output_type: loglikelihood_rolling
  test_split: test
  doc_to_text: ""
  doc_to_target: "{{question}}"
  metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
ROWS = [
  {'question': 'the cat sat on', 'choices': ['the mat', 'a dog'], 'answer': 0},
  {'question': 'the dog ran', 'choices': ['to', 'red barn', 'x'], 'answer': 1},
  {'question': 'old ', 'choices': ['red', 'barn and'], 'answer': 0},
]


def add_tokenizer(path, special: dict[str, str], size: int) -> None:
  """Byte-level BPE whose last ids are the special tokens; a chat template."""
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  names = list(special.values())
  trainer = trainers.BpeTrainer(
    vocab_size=size - len(names),
    show_progress=False,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
  )
  made.train_from_iterator([WORDS] * 3, trainer)
  filler = [f'#{i}' for i in range(size - len(names) - made.get_vocab_size())]
  made.add_tokens(filler)
  made.add_special_tokens(names)
  assert made.get_vocab_size() == size
  made.save(str(path / 'tokenizer.json'))
  config = {f'{k}_token': v for k, v in special.items() if k != 'other'}
  config |= {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'chat_template': TEMPLATE,
  }
  (path / 'tokenizer_config.json').write_text(json.dumps(config))


@pytest.fixture(scope='module')
def llama(shared_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp('llama') / 'model'
  shutil.copytree(shared_dir / 'golden' / 'llama_tiny', path)
  add_tokenizer(path, {'bos': '<s>', 'eos': '</s>'}, 320)
  return path


@pytest.fixture(scope='module')
def llada(shared_dir, tmp_path_factory):
  path = tmp_path_factory.mktemp('llada') / 'model'
  shutil.copytree(shared_dir / 'golden' / 'llada_tiny', path)
  special = {'eos': '</s>', 'mask': '<|mask|>', 'bos': '<s>'}
  add_tokenizer(path, special, 500)
  return path


def open_model(path, **args) -> adapter.HarnessModel:
  return adapter.HarnessModel(path=str(path), data=1, **args)


def plain(path) -> dllm_jax.Model:
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  return dllm_jax.Model.open(path, mesh=mesh)


def requests(kind, *args):
  return [
    instance.Instance(request_type=kind, doc={}, arguments=a, idx=i)
    for i, a in enumerate(args)
  ]


PAIRS = [
  ('the cat sat on', ' the mat'),
  ('the cat sat on', ' a dog'),
  ('old ', 'red'),
  ('the cat sat on', ' the barn'),
  ('', 'the dog'),
]


def in_ids(model, context, text):
  """The pair by hand: spaces move, the whole is encoded and cut."""
  tokenizer = model.tokenizer
  if not context:
    return [tokenizer.special.bos], tokenizer.encode(text)
  stripped = context.rstrip()
  before = tokenizer.encode(stripped)
  return before, tokenizer.encode(context + text)[len(before) :]


@pytest.mark.parametrize('family', ['llama', 'llada'])
def test_log_likelihoods_are_those_of_the_library(family, request):
  folder = request.getfixturevalue(family)
  model = plain(folder)
  ids = [in_ids(model, *pair) for pair in PAIRS]
  assert ids[2][1] == model.tokenizer.encode(' red')
  for args in ({}, {'masking': 'left_to_right'}, {'masking': 'bernoulli'}):
    if family == 'llama' and args:
      continue
    want = model.loglikelihood(ids, num_samples=4, seed=3, **args)
    lm = open_model(folder, num_samples=4, seed=3, batch_size=2, **args)
    got = lm.loglikelihood(requests('loglikelihood', *PAIRS))
    np.testing.assert_allclose([x for x, _ in got], want, rtol=1e-5)


def test_a_causal_model_scores_as_the_hugging_face_model_does(llama):
  huggingface = pytest.importorskip('lm_eval.models.huggingface')
  theirs = huggingface.HFLM(
    pretrained=str(llama), device='cpu', dtype='float32', batch_size=2
  )
  ours = open_model(llama, batch_size=3)
  asked = requests('loglikelihood', *PAIRS, ('</s>the', ' cat'))
  want, got = theirs.loglikelihood(asked), ours.loglikelihood(asked)
  context = ours.tok_encode('the cat sat on')
  decoder = ours._model.decoder(overrides={'gen_length': 3})
  [done] = ours._model.complete([context], decoder)
  best = [(None, context, done.completion_ids[:n]) for n in (1, 2, 3)]
  best.append((None, context, [*done.completion_ids[:2], 5]))
  want += theirs._loglikelihood_tokens(best)
  got += ours._loglikelihood_tokens(best)
  for (a, greedy), (b, is_greedy) in zip(want, got, strict=True):
    assert b == pytest.approx(a, abs=1e-4) and is_greedy == greedy
  assert [x for _, x in got[-4:]] == [True, True, True, False]
  texts = requests('loglikelihood_rolling', (WORDS * 3,), ('old',))
  for size in (16, 2048):
    theirs._max_length = ours._max_length = size
    np.testing.assert_allclose(
      ours.loglikelihood_rolling(texts),
      theirs.loglikelihood_rolling(texts),
      atol=1e-3,
    )
  theirs._max_length = ours._max_length = 64
  asked = requests(
    'generate_until',
    ('the cat', {'until': ['a'], 'max_gen_toks': 9}),
    ('old red barn', {'until': ['\n\n'], 'max_gen_toks': 20}),
    (WORDS * 5, {'until': [], 'max_gen_toks': 9}),
  )
  assert ours.generate_until(asked) == theirs.generate_until(asked)


def test_a_chat_template_is_the_hugging_face_models(llama):
  huggingface = pytest.importorskip('lm_eval.models.huggingface')
  theirs = huggingface.HFLM(pretrained=str(llama), device='cpu')
  ours = open_model(llama)
  one = [{'role': 'user', 'content': ' 2 + 2? '}]
  several = [
    {'role': 'system', 'content': 'Be brief.'},
    *one,
    {'role': 'assistant', 'content': '4'},
    {'role': 'user', 'content': '3 + 3?'},
  ]
  begun = [*one, {'role': 'assistant', 'content': 'It is'}]
  for messages, prompt in ((one, True), (several, True), (begun, False)):
    want = theirs.apply_chat_template(messages, add_generation_prompt=prompt)
    assert ours.apply_chat_template(messages, prompt) == want
    assert ours.tok_encode(want) == theirs.tok_encode(want)
  assert ours.tok_encode('<s>x') == theirs.tok_encode('<s>x')
  assert ours.chat_template(True) == TEMPLATE
  with pytest.raises(errors.UserError, match='give no name'):
    ours.chat_template('other')


def test_generation_of_a_diffusion_model_is_the_librarys(llada):
  model = plain(llada)
  text = 'the cat sat on'
  [done] = model.generate(
    [model.tokenizer.encode(text)],
    model.decoder(
      'gated', {'gen_length': 16, 'block_length': 8, 'threshold': 0.2}
    ),
  )
  lm = open_model(llada, decode='gated', block_length=8, threshold=0.2)
  ask = lambda **kwargs: lm.generate_until(
    requests('generate_until', (text, kwargs))
  )
  # Twelve tokens are one and a half blocks, of which all is decoded.
  [got] = ask(until=[], max_gen_toks=12)
  want = model.tokenizer.decode(done.completion_ids[:12])
  assert got == want and len(want) > 2
  cut = want[len(want) // 2]
  assert ask(until=[cut, 'zzz'], max_gen_toks=12) == [want.split(cut)[0]]
  assert ask(until=cut, max_gen_toks=12) == [want.split(cut)[0]]
  drawn = ask(until=[], max_gen_toks=12, do_sample=True, temperature=2.0)
  assert drawn != [want]
  assert drawn == ask(until=[], max_gen_toks=12, temperature=2.0)


def test_what_the_user_gives_wins_over_the_task(llada):
  lm = open_model(llada, gen_length=8, block_length=8, temperature=0.0)
  asked = lambda **kwargs: lm._decoding.of_task({'max_gen_toks': 300} | kwargs)
  decoder, limit = asked(temperature=1.0)
  assert (decoder.gen_length, limit, decoder.temperature) == (8, None, 0.0)
  lm = open_model(llada)
  assert asked(temperature=1.0)[0].gen_length == 320


def test_greedy_continuations_of_a_diffusion_model_are_found(llada):
  """By decoding, one token a step, where it is asked for."""
  model = plain(llada)
  context = model.tokenizer.encode('the cat')
  how = {'gen_length': 4, 'block_length': 4, 'num_steps': 4}
  how['stop_at_eos'] = False
  [done] = model.complete([context], model.decoder('fixed', how))
  other = [*done.completion_ids[:3], (done.completion_ids[3] + 1) % 400]
  asked = [(None, context, done.completion_ids), (None, context, other)]
  for check in (True, False):
    lm = open_model(llada, check_greedy=check, num_samples=2)
    found = lm._loglikelihood_tokens(asked)
    assert [x for _, x in found] == [check, False]


def test_a_model_of_blocks_is_asked_for_no_greedy_continuation(tmp_path):
  """Whose lengths are no multiples of the block; before any bound."""
  folder = tiny_pretrained.sdar(tmp_path / 'sdar')
  open_model(folder)
  open_model(folder, check_greedy=True, masking='left_to_right')
  with pytest.raises(errors.UsageError, match='check_greedy.*over blocks'):
    open_model(folder, check_greedy=True)


def test_texts_of_dreams_release_begin_with_bos(llada):
  lm = open_model(llada, profile='dream_release:gsm8k')
  bos = lm._model.tokenizer.special.bos
  assert lm.tok_encode('the cat')[0] == bos
  assert lm.tok_encode('<s>the cat').count(bos) == 1
  lm = open_model(llada, profile='dream_release:gsm8k', add_bos_token=False)
  assert bos not in lm.tok_encode('the cat')
  assert bos not in open_model(llada).tok_encode('the cat')


def test_recorded_bounds_through_the_harness(llada, shared_dir, monkeypatch):
  """LLaDA's Monte-Carlo estimate, with its own masks."""
  data = tiny.recorded(shared_dir / 'golden' / 'llada_tiny', 'loglik.npz')
  masks, ratio = data['mc.answer_mask'], data['mc.p_mask']

  def hide(row_keys, first, mask, k, estimate):
    size = jnp.sum(mask, axis=1)
    width = mask.shape[1] - masks.shape[1]
    hidden = jnp.pad(jnp.asarray(masks), ((0, 0), (0, width)))[k]
    count = jnp.asarray(ratio, jnp.float32)[k] * size
    return jnp.broadcast_to(hidden[None], mask.shape), size, count

  monkeypatch.setattr(masked_likelihood, 'hide', hide)
  for which, args in (('mc', {}), ('mc_cfg', {'likelihood_cfg_scale': 0.5})):
    jax.clear_caches()
    lm = open_model(llada, num_samples=16, **args)
    pair = data['mc.prompt'].tolist(), data['mc.answer'].tolist()
    [(got, _)] = lm._loglikelihood_tokens([(None, *pair)])
    want = float(data[f'{which}.log_likelihood'])
    assert got == pytest.approx(want, abs=2e-3)
  jax.clear_caches()


def test_texts_of_a_diffusion_model_are_scored_window_by_window(llada):
  lm = open_model(llada, masking='left_to_right', max_length=8)
  tokenizer = lm._model.tokenizer
  ids = tokenizer.encode(WORDS)
  assert 14 < len(ids) < 21
  # Windows of seven and the token before each: eight on a canvas. The last has
  # a full one as well, of which only what is new counts.
  pairs = [([tokenizer.special.bos], ids[:7]), (ids[6:7], ids[7:14])]
  pairs.append((ids[len(ids) - 8 : 14], ids[14:]))
  want = lm._model.loglikelihood(pairs, masking='left_to_right')
  [got] = lm.loglikelihood_rolling(requests('loglikelihood_rolling', (WORDS,)))
  assert got == pytest.approx(sum(want), rel=1e-5)


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
  path = tmp_path_factory.mktemp('tasks')
  lines = ''.join(f'{json.dumps(row)}\n' for row in ROWS)
  (path / 'mc.jsonl').write_text(lines)
  for name, text in (('mc', MC), ('gen', GENERATE), ('text', TEXT)):
    text = textwrap.dedent(text).replace('DATA', str(path))
    (path / f'{name}.yaml').write_text(text)
  return path


@pytest.mark.parametrize('family', ['llama', 'llada'])
def test_the_harness_runs_its_tasks(family, request, tasks, monkeypatch):
  monkeypatch.setenv('HF_DATASETS_OFFLINE', '1')
  monkeypatch.setenv('HF_HOME', str(tasks / 'home'))
  lm = open_model(request.getfixturevalue(family), num_samples=2, gen_length=16)
  manager = harness_tasks.TaskManager(
    include_path=str(tasks), include_defaults=False
  )
  found = lm_eval.simple_evaluate(
    model=lm,
    tasks=['tiny_mc', 'tiny_gen', 'tiny_text'],
    task_manager=manager,
    num_fewshot=0,
    bootstrap_iters=0,
    log_samples=True,
  )
  results = found['results']
  assert 0 <= results['tiny_mc']['acc,none'] <= 1
  samples = found['samples']['tiny_mc']
  right = [
    int(np.argmax([float(x[0]) for x in s['filtered_resps']]) == s['target'])
    for s in samples
  ]
  assert results['tiny_mc']['acc,none'] == pytest.approx(np.mean(right))
  assert results['tiny_text']['bits_per_byte,none'] > 0
  for sample in found['samples']['tiny_gen']:
    assert 'e' not in sample['resps'][0][0]
  assert found['config']['decoding']['gen_length'] == 16
  assert found['config']['dllm_jax']['versions']['jax'] == jax.__version__


@pytest.mark.slow
def test_the_command_of_the_harness(llada, tasks):
  """By its name, few-shot, with a chat template, in a process of its own."""
  command = [
    sys.executable,
    '-m',
    'dllm_jax.integrations.lm_eval',
    '--model',
    'dllm_jax',
    '--model_args',
    f'path={llada},decode=fixed,gen_length=8,block_length=8,steps=4,'
    'num_samples=2',
    '--include_path',
    str(tasks),
    '--tasks',
    'tiny_mc,tiny_gen',
    '--num_fewshot',
    '1',
    '--apply_chat_template',
    '--fewshot_as_multiturn',
    'true',
    '--output_path',
    str(tasks / 'out'),
    '--batch_size',
    '4',
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  assert 'tiny_mc' in done.stdout
  [file] = (tasks / 'out').rglob('results_*.json')
  kept = json.loads(file.read_text())
  assert kept['config']['decoding']['num_steps'] == 4
  command[command.index('--batch_size') + 1] = 'auto'
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and 'give a number of rows' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  'args, line',
  [
    ({'mask': 1}, 'neither an argument of the model nor a field'),
    ({'masking': 'some'}, 'expected one of'),
    ({'threshold': 0.5}, 'not read by the fixed decoder'),
    ({'decode': 'autoregressive'}, 'for this diffusion model'),
  ],
)
def test_arguments_that_are_wrong_are_one_line(llada, args, line):
  with pytest.raises(errors.UserError, match=line):
    open_model(llada, **args)


def test_a_context_without_room_is_one_line(llada):
  lm = open_model(llada, max_length=8)
  with pytest.raises(errors.UserError, match='leaves no room'):
    lm.generate_until(requests('generate_until', ('the', {'max_gen_toks': 8})))


def test_a_profile_gives_decoder_and_likelihood(llada, caplog):
  lm = open_model(llada, profile='llada_paper:arc_challenge', num_samples=4)
  estimate = masked_likelihood.Estimate(num_samples=4, cfg_scale=0.5)
  assert lm._estimate == estimate and lm._decoding.name == 'fixed'
  assert '--num_fewshot 0 and no chat template' in caplog.text
  # Another length keeps the tokens per step.
  lm = open_model(llada, profile='d1:gsm8k', gen_length=64)
  decoder, limit = lm._decoding.of_task(
    {'max_gen_toks': 300, 'temperature': 1.0}
  )
  assert (decoder.gen_length, decoder.block_length, limit) == (64, 32, None)
  assert (decoder.num_steps, decoder.temperature) == (32, 0.0)
  # What is the harness's, or is not followed, is not said to be.
  protocol = profiles.PROFILES['d1'].protocol('gsm8k')
  assert lm.get_model_info()['profile'] == {
    'name': 'd1:gsm8k',
    'decode': 'fixed',
    'fields': dict(protocol.fields),
    'bos': False,
    'likelihood': None,
  }
  same = open_model(llada, profile='d1:gsm8k', decode='fixed', gen_length=64)
  assert same._decoding.decoder() == decoder
  with pytest.raises(errors.UsageError, match='leave decode out'):
    open_model(llada, profile='d1:gsm8k', decode='gated')
  lm = open_model(
    llada, profile='fast_dllm:gsm8k', cache='none', published='none'
  )
  decoder, _ = lm._decoding.of_task({'max_gen_toks': 300})
  assert (decoder.threshold, decoder.inclusive) == (0.9, True)
  assert decoder.gen_length == 256
  for name in ('d1', 'd3:gsm8k', 'd1:piqa'):
    with pytest.raises(errors.UsageError):
      open_model(llada, profile=name)
