"""What the arguments of `--model_args` come to, without the harness."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import dllm_jax
from dllm_jax import decoding, errors, types
from dllm_jax.decoding import block_decoder
from dllm_jax.eval import masked_likelihood, profiles

MAX_LENGTH = 2048  # of a model that names no limit, as in the harness
# Keys of config.json that name the limit.
_LIMITS = ('max_position_embeddings', 'max_sequence_length', 'n_positions')
# Generation arguments that are read elsewhere, or say nothing more.
_READ = frozenset({'until', 'max_gen_toks', 'do_sample', 'temperature'})
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
  """How tasks are decoded.

  Attributes:
    model: the model.
    name: of the decoder.
    published: fields of a profile, over the model's defaults.
    chosen: the user's, over both.
  """

  model: dllm_jax.Model
  name: str
  published: Mapping[str, Any]
  chosen: Mapping[str, Any]

  def decoder(self, **values: Any) -> types.Decoder:
    """The decoder, with more fields where the user gave none.

    Raises:
      errors.UsageError: it does not have a field, or refuses its value.
    """
    base = {self.name: self.model.decoder(self.name, self.published)}
    try:
      return decoding.apply_overrides(
        base, self.name, {**values, **self.chosen}
      )
    except ValueError as e:
      raise errors.UsageError(str(e)) from e

  def record(self) -> dict[str, Any]:
    """What was given."""
    return {'decode': self.name, **self.published, **self.chosen}

  def of_task(
    self, kwargs: Mapping[str, Any]
  ) -> tuple[types.Decoder, int | None]:
    """The decoder of a task, and how many of its tokens count; None for all.

    A profile and the user win over the task. A length that the blocks do not
    divide is decoded to the end of its last block.

    Args:
      kwargs: the task's generation arguments, as the harness normalises them.
    """
    given = {**self.published, **self.chosen}
    values, limit = {}, None
    for field in ('temperature', 'top_p'):
      if kwargs.get(field) is not None and field not in given:
        if self.name in decoding.users(field):
          values[field] = kwargs[field]
    for key in sorted(kwargs.keys() - _READ - values.keys() - given.keys()):
      _log.warning('generation argument %s is not read', key)
    if 'gen_length' not in given:
      limit = values['gen_length'] = kwargs['max_gen_toks']
      decoder = self.model.decoder(
        self.name, {k: v for k, v in given.items() if k == 'block_length'}
      )
      if isinstance(decoder, block_decoder.BlockDecoder):
        block = decoder.block_length
        if limit > block or types.block_causal(self.model.denoiser):
          values['gen_length'] = -(-limit // block) * block
    return self.decoder(**values), limit


def fields_of(flags: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a decoder, by the names of their flags.

  Raises:
    errors.UsageError: there is no such flag.
  """
  known = decoding.flag_names()
  if unknown := sorted(flags.keys() - known.keys()):
    raise errors.UsageError(
      f'model_args: {unknown[0]} is neither an argument of the model nor a '
      f'field of a decoder: {", ".join(sorted(known))}'
    )
  return {known[flag].name: value for flag, value in flags.items()}


def protocol_of(profile: str | None) -> profiles.Protocol:
  """The protocol of NAME:TASK, empty for None; says what is left to the user.

  Raises:
    errors.UsageError: there is none.
  """
  if profile is None:
    return profiles.Protocol()
  name, _, task = profile.partition(':')
  if not task:
    raise errors.UsageError(f'profile={profile}: expected NAME:TASK')
  protocol = profiles.find(name, task)
  chat = '--apply_chat_template' if protocol.chat else 'no chat template'
  _log.warning(
    'profile %s goes with --num_fewshot %s and %s',
    profile,
    protocol.num_fewshot,
    chat,
  )
  ignored = [f'prefill {protocol.prefill!r}'] * bool(protocol.prefill)
  ignored += ["d1's verdicts"] * protocol.parity
  if ignored:
    _log.warning(
      'profile %s: not followed here: %s', profile, ' and '.join(ignored)
    )
  return protocol


def published_of(
  profile: str | None, protocol: profiles.Protocol, decode: str | None
) -> dict[str, Any]:
  """The protocol's fields of the decoder.

  Raises:
    errors.UsageError: another decoder is wanted than the protocol's.
  """
  if decode and protocol.decode and decode != protocol.decode:
    raise errors.UsageError(
      f'profile={profile} decodes with {protocol.decode}, not with {decode}: '
      'leave decode out'
    )
  return dict(protocol.fields)


def record_of(
  profile: str | None, protocol: profiles.Protocol
) -> dict[str, Any] | None:
  """What is followed of a protocol; None without one."""
  if profile is None:
    return None
  estimate = protocol.likelihood
  return {
    'name': profile,
    'decode': protocol.decode,
    'fields': dict(protocol.fields),
    'bos': protocol.bos,
    'likelihood': estimate and dataclasses.asdict(estimate),
  }


def estimate_of(
  protocol: profiles.Protocol, **given: Any
) -> masked_likelihood.Estimate:
  """The protocol's estimate of likelihoods, with the given values over it.

  Raises:
    errors.UsageError: a value is out of range.
  """
  given = {name: x for name, x in given.items() if x is not None}
  estimate = protocol.likelihood or masked_likelihood.Estimate()
  try:
    return dataclasses.replace(estimate, **given)
  except ValueError as e:
    raise errors.UsageError(f'model_args: {e}') from e


def max_length_of(model: dllm_jax.Model) -> int:
  """Tokens that a text can have, by config.json."""
  values = [model.record.config.get(name) for name in _LIMITS]
  if model.record.model is not None:
    values.append(model.record.model.max_positions)
  return next((x for x in values if type(x) is int and x > 0), MAX_LENGTH)


def last(ids: list[int], room: int) -> list[int]:
  """The last tokens of a context, as many as there is room for.

  Raises:
    errors.UserError: there is room for none.
  """
  if room < 1:
    raise errors.UserError(
      'a continuation, or gen_length, takes all of the max_length of the model '
      'and leaves no room for a context: shorten it'
    )
  if len(ids) > room:
    _log.warning('a context of %d tokens is cut to its last %d', len(ids), room)
  return ids[-room:]
