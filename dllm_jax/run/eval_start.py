"""What an evaluation of kept models starts from."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dllm_jax import decoding, errors, types
from dllm_jax import model as model_lib
from dllm_jax.eval import few_shot, profiles
from dllm_jax.hf import hub
from dllm_jax.rollout import context
from dllm_jax.run import (
  base_model,
  checks,
  conversations,
  eval_files,
  settings,
  setup,
)
from dllm_jax.runtime import console, processes, sharding
from dllm_jax.state import provenance, workdir
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import chat, json_file, special

# Config keys that say how models are judged and run, not what they are.
_NOT_OF_MODEL = (
  'task.parity',
  'task.sandbox_',
  'model.attention',
  'model.remat',
  'model.unroll',
)


def with_profile(config: Mapping[str, Any]) -> dict[str, Any]:
  """The config with what its `eval.profile` says of prompts and verdicts.

  Raises:
    errors.UsageError: there is no such profile, or it is not for the task.
  """
  protocol = protocol_of(config)
  if protocol is None:
    return dict(config)
  changed = dict(config)
  changed['rollout'] = config['rollout'] | {'prefill': protocol.prefill}
  if 'parity' in config['task']:
    changed['task'] = config['task'] | {'parity': protocol.parity}
  return changed


def protocol_of(config: Mapping[str, Any]) -> profiles.Protocol | None:
  """The protocol of the config's profile for its task; None for none.

  Raises:
    errors.UsageError: as `with_profile`.
  """
  name = config['eval']['profile']
  return profiles.find(name, config['task']['name']) if name else None


def decoder_of(
  cfg: settings.Settings,
  protocol: profiles.Protocol | None,
  decode: str,
  overrides: Mapping[str, Any],
) -> types.Decoder:
  """The greedy decoder, with the protocol's fields, and the user's over them.

  Raises:
    errors.UsageError: the decoder does not have a field, or refuses its value.
  """
  decoders = decoding.greedy(cfg.decoders, threshold=cfg.eval.threshold)
  if protocol is not None and protocol.decode != decode:
    raise errors.UsageError(
      f'profile {cfg.eval.profile} decodes with {protocol.decode}, not with '
      f'{decode}: leave --decode out'
    )
  try:
    if protocol is not None:
      fields = dict(protocol.fields)
      decoders |= {decode: decoding.apply_overrides(decoders, decode, fields)}
    return decoding.apply_overrides(decoders, decode, overrides)
  except ValueError as e:
    raise errors.UsageError(f'{e}; see --help') from e


def shots_of(
  protocol: profiles.Protocol | None, shots: few_shot.FewShot | None
) -> few_shot.FewShot:
  """The user's wish, or the protocol's, or no examples."""
  if shots is None and protocol is not None and protocol.num_fewshot:
    return few_shot.FewShot(num=protocol.num_fewshot)
  return shots or few_shot.NONE


def start(
  config: Mapping[str, Any],
  cfg: settings.Settings,
  directory: pathlib.Path,
  models: Mapping[str, model_lib.Model],
  out: pathlib.Path | None,
  shots: few_shot.FewShot | None,
  *,
  given: Mapping[str, Any],
  generates: bool = True,
) -> tuple[
  context.Context,
  Sequence[task_lib.Row],
  Sequence[task_lib.Row],
  dict[str, Any],
]:
  """Everything but the parameters, once all checks have passed.

  Args:
    config: nested dicts.
    cfg: the same.
    directory: of the models.
    models: by name; no parameters are read.
    out: results file.
    shots: the user's wish for examples.
    given: what else the user gave, JSON values by the name of a flag or field;
      the same in all processes.
    generates: whether completions are judged.

  Returns:
    The models' context, which shows the examples; the held-out rows; the rows
    of the examples; and what the results file says of all this.

  Raises:
    errors.UserError: as `evaluate.evaluate_model`.
  """
  _check_has_answers(cfg)
  _check_same_model(config, directory)
  first = next(iter(models.values()))
  ctx = setup.make_context(cfg, first, adapters=first.overrides is not None)
  for model in models.values():
    base_model.check_params(model.folder, ctx)
  sharding.check_divides(cfg.eval.batch_size, ctx.mesh, 'eval.batch_size')
  own = {
    '--out': 'given' if out is not None else 'not given',
    '--num_fewshot': shots and shots.num,
    '--fewshot_seed': shots and shots.seed,
  }
  processes.check_same(
    workdir.flatten(config) | provenance.code() | own | given
  )
  if out is not None:
    processes.from_first(
      'the results', lambda: eval_files.check_name(out, directory)
    )
  protocol = protocol_of(config)
  shots = shots_of(protocol, shots)
  rows, examples = setup.after_first(setup.load_test, cfg), []
  if shots.num:
    train = setup.after_first(setup.load_examples, cfg)
    examples = few_shot.choose(cfg.task, train, rows, shots)
  if generates:
    ctx = _with_examples(ctx, _template(ctx, first, protocol), examples)
    ctx.encode(rows)
    checks.check_verifier(ctx, rows)
  ids = [row['id'] for row in examples]
  profile = cfg.eval.profile or None
  about = {
    'task': cfg.task_name,
    'num': len(rows),
    'seed': cfg.seed,
    'profile': profile and profiles.PROFILES[profile].record(cfg.task_name),
    'few_shot': dataclasses.asdict(shots) | {'ids': ids},
    'weights': {n: hub.origin(m.folder.path) for n, m in models.items()},
  }
  return ctx, rows, examples, about | provenance.code()


def _template(
  ctx: context.Context,
  model: model_lib.Model,
  protocol: profiles.Protocol | None,
) -> chat.ChatTemplate:
  """The template that the protocol wants, or that of training.

  Raises:
    errors.UserError: the folder has none, or no BOS.
  """
  if protocol is None:
    return ctx.template
  if protocol.chat:
    return model.prompt_template(True)
  return chat.plain(_bos(model)) if protocol.bos else model.plain


def _bos(model: model_lib.Model) -> str:
  """The text of BOS in the model's folder."""
  files = ('tokenizer_config.json', 'special_tokens_map.json')
  try:
    found = [json_file.read_optional(model.folder.text / f) for f in files]
    return special.names(*found)[0]['bos_token']
  except (KeyError, ValueError) as e:
    raise errors.UserError(
      f'the profile begins prompts with BOS, and {model.folder.text} names no '
      'bos_token in tokenizer_config.json: leave --profile out'
    ) from e


def _with_examples(
  ctx: context.Context,
  template: chat.ChatTemplate,
  examples: Sequence[task_lib.Row],
) -> context.Context:
  """The context that shows the examples, and judges what answers them."""
  text = few_shot.text(ctx.task, examples)
  template = dataclasses.replace(template, examples=text)
  ctx = dataclasses.replace(ctx, template=template)
  if not examples or template.after:  # which ends the model's turn
    return ctx
  ending = few_shot.ending(ctx.task, examples)
  task = few_shot.FirstAnswer(task=ctx.task, ending=ending)
  return dataclasses.replace(ctx, task=task)


def tell(about: Mapping[str, Any], screen: console.Console) -> None:
  """Says what the profile fixes, if there is one."""
  record = about['profile']
  if record:
    values = {k: v for k, v in record.items() if k != 'fields'}
    values |= {'likelihood': record['likelihood'] and 'of the options'}
    values |= record['fields']
    said = ', '.join(f'{k} {v}' for k, v in values.items() if v is not None)
    screen.line(f'profile: {said}')


def _check_has_answers(cfg: settings.Settings) -> None:
  """Refuses tasks without right answers."""
  if not isinstance(cfg.task, task_lib.OpenEnded):
    return
  if conversations.applies(cfg):
    raise errors.UserError(
      'conversations have no right answers, and so no accuracy: their held-out '
      "loss is in the run's eval.json; set task.verifier for problems"
    )
  raise errors.UserError(
    f'task {cfg.task_name!r} has no right answers, and so no accuracy: '
    'launch/train.py measures the agreement of its phrasings'
  )


def _check_same_model(
  config: Mapping[str, Any], directory: pathlib.Path
) -> None:
  """Refuses a config of another task, model or prefill than the run's.

  Models with a pretrained tokenizer read any task, and have their own shape.
  """
  own = workdir.read_config(directory)
  if own is None:
    return
  given, groups = workdir.flatten(config), ('task.', 'model.')
  if own['base']['path']:
    groups = ('model.lora_', 'model.param_dtype')
  if not config['eval']['profile']:  # which may have one of its own
    groups += ('rollout.prefill',)
  # Another task is the reason for what follows of it.
  first = lambda item: item[0] != 'task.name'
  for key, value in sorted(workdir.flatten(own).items(), key=first):
    if key.startswith(groups) and not key.startswith(_NOT_OF_MODEL):
      if given.get(key) != value:
        raise errors.UserError(
          f'{directory} was trained with {key}={value}, the config says '
          f'{given.get(key)}; give the config, preset and overrides of the run'
        )
