"""Arguments of the harness's command: lengths, temperatures, profiles."""

import pytest

import dllm_jax
from dllm_jax import errors
from dllm_jax.eval import masked_likelihood, profiles
from dllm_jax.integrations import options
from tests import tiny_model


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  path = tiny_model.llada(tmp_path_factory.mktemp('model') / 'llada')
  return dllm_jax.Model.describe(path)


def decoding(model, published=(), name='fixed', **chosen):
  return options.Decoding(
    model=model, name=name, published=dict(published), chosen=chosen
  )


@pytest.mark.parametrize(
  ('wanted', 'length', 'block'),
  [(12, 12, 12), (32, 32, 32), (33, 64, 32), (300, 320, 32)],
)
def test_a_tasks_length_is_decoded_to_the_end_of_its_block(
  model, wanted, length, block
):
  decoder, limit = decoding(model).of_task({'max_gen_toks': wanted})
  assert (decoder.gen_length, decoder.block_length) == (length, block)
  # One token a step, as the model's own decoder has it.
  assert (limit, decoder.num_steps) == (wanted, length)


def test_a_user_and_a_profile_win_over_the_task(model):
  task = {'max_gen_toks': 300, 'temperature': 1.0, 'until': ['x']}
  assert decoding(model).of_task(task)[0].temperature == 1.0
  own = decoding(model, gen_length=64, temperature=0.5)
  decoder, limit = own.of_task(task)
  assert (decoder.gen_length, decoder.temperature, limit) == (64, 0.5, None)
  fields = profiles.PROFILES['d1'].protocol('gsm8k').fields
  decoder, limit = decoding(model, fields, gen_length=64).of_task(task)
  assert (decoder.gen_length, decoder.num_steps, limit) == (64, 32, None)
  assert decoder.temperature == 0
  record = decoding(model, fields, gen_length=64).record()
  assert (record['decode'], record['gen_length']) == ('fixed', 64)


def test_arguments_that_nothing_reads_are_said(model, caplog):
  decoding(model, name='gated').of_task(
    {'max_gen_toks': 8, 'num_beams': 4, 'top_p': 0.9, 'do_sample': False}
  )
  assert caplog.messages == ['generation argument num_beams is not read']


def test_flags_are_fields_by_another_name():
  assert options.fields_of({'steps': 4, 'cache': 'dual'}) == {
    'num_steps': 4,
    'cache': 'dual',
  }
  with pytest.raises(errors.UsageError, match='num_steps is neither'):
    options.fields_of({'num_steps': 4})


def test_a_protocol_is_named_with_its_task(caplog):
  assert options.protocol_of(None) == profiles.Protocol()
  protocol = options.protocol_of('fast_dllm:gsm8k')
  assert protocol == profiles.PROFILES['fast_dllm'].protocol('gsm8k')
  assert '--num_fewshot 5 and --apply_chat_template' in caplog.text
  assert 'not followed' not in caplog.text
  options.protocol_of('d1:gsm8k')
  assert caplog.messages[-1] == (
    "profile d1:gsm8k: not followed here: prefill '<reasoning>' and d1's "
    'verdicts'
  )
  for name in ('fast_dllm', 'fast:gsm8k', 'fast_dllm:math'):
    with pytest.raises(errors.UsageError):
      options.protocol_of(name)


def test_fields_are_of_the_profiles_decoder_alone():
  d1 = profiles.PROFILES['d1'].protocol('gsm8k')
  of = lambda protocol, decode: options.published_of('p:t', protocol, decode)
  assert of(d1, None) == of(d1, 'fixed') == dict(d1.fields)
  with pytest.raises(errors.UsageError, match='decodes with fixed, not with g'):
    of(d1, 'gated')
  choices = profiles.PROFILES['llada_paper'].protocol('piqa')
  assert of(choices, 'gated') == of(profiles.Protocol(), 'gated') == {}


def test_given_values_are_over_a_protocols_likelihood():
  protocol = profiles.PROFILES['llada_paper'].protocol('arc_challenge')
  made = options.estimate_of(protocol, num_samples=4, masking=None)
  assert made == masked_likelihood.Estimate(num_samples=4, cfg_scale=0.5)
  with pytest.raises(errors.UsageError, match='num_samples 0'):
    options.estimate_of(protocol, num_samples=0)


def test_the_limit_of_a_model_is_its_configs(model):
  assert options.max_length_of(model) > 0
  assert options.last([1, 2, 3, 4], 3) == [2, 3, 4]
  with pytest.raises(errors.UserError, match='leaves no room'):
    options.last([1], 0)
