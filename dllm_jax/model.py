"""The library's face: a model with its tokenizer and its default decoding.

The one place where a name, a model folder or a workdir becomes a model.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from dllm_jax import decoding, errors, types
from dllm_jax.analysis import policies, record
from dllm_jax.eval import likelihood, masked_likelihood
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import hub, load, save, table
from dllm_jax.hf.families import FAMILIES
from dllm_jax.models import config as model_config
from dllm_jax.rollout import completions
from dllm_jax.runtime import console as console_lib
from dllm_jax.runtime import sharding
from dllm_jax.state import workdir
from dllm_jax.text import chat
from dllm_jax.text import tokenizer as tokenizer_lib

# The default decoding of a model that no run trained; a decoder takes the
# fields that it has.
DECODING = {
  'gen_length': 128,
  'block_length': 32,
  'num_steps': 128,
  'threshold': 0.9,
  'stop_at_eos': True,
}
_BASE_NAME = re.compile(r'(?i)(^|[-_.])base($|[-_.@])')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A model with its parameters, its tokenizer and its default decoding.

  Attributes:
    name: what the model was opened by; empty for a new one.
    denoiser: the model as a function of its parameters.
    params: parameters on `mesh`; None before `load`.
    record: family, shape and special ids.
    vocab: special ids that decoding must know.
    tokenizer: None if the folder has none; prompts are then ids.
    folder: where the model was read from; None for a new model.
    decoders: default decoders by name, greedy.
    decode: name of the decoder that is used by default.
    prefill: text that every completion begins with, as part of the prompt.
    mesh: devices that hold `params`.
    overrides: `ModelConfig` fields that the run chose which trained the model;
      None for other models.
  """

  name: str = ''
  denoiser: types.Denoiser
  params: types.Params | None = None
  record: hf_config.Record
  vocab: types.Vocabulary
  tokenizer: tokenizer_lib.Tokenizer | None
  folder: load.Folder | None = None
  decoders: Mapping[str, types.Decoder]
  decode: str
  prefill: str = ''
  mesh: Mesh | None = None
  overrides: Mapping[str, Any] | None = None

  @classmethod
  def open(
    cls,
    name: str | pathlib.Path,
    *,
    mesh: Mesh | None = None,
    params: str | None = None,
    dtype: str | None = None,
    param_dtype: str | None = None,
    unroll: int | None = None,
    console: console_lib.Console | None = None,
  ) -> 'Model':
    """Reads a model.

    Args:
      name: a model folder, ORG/NAME@REVISION, or the workdir of a run.
      mesh: devices for the parameters; None is a mesh of all devices along
        `data`.
      params: which model of a run: 'base', 'control' or 'final'; None is
        'final', or the base of a run that trained nothing else. Other folders
        have one.
      dtype: dtype of activations; None is the run's, or else `param_dtype`.
      param_dtype: dtype of the parameters; None is the run's, or else the
        stored one.
      unroll: `ModelConfig.unroll`; None is the run's, or else 4. With the
        model's number of layers few rows are decoded faster, compiling takes
        longer, and decoding has a second copy of the layers.
      console: shows progress; None is silent.

    Raises:
      errors.UserError: there is no such model, or it is malformed or damaged.
    """
    mesh = mesh or sharding.make_mesh(sharding.MeshConfig())
    described = cls.describe(name, params=params)
    return described.load(
      mesh,
      dtype=dtype,
      param_dtype=param_dtype,
      unroll=unroll,
      console=console,
    )

  @classmethod
  def describe(
    cls, name: str | pathlib.Path, *, params: str | None = None
  ) -> 'Model':
    """`open` without reading a weight: everything but the parameters."""
    path, params = resolve(name, params)
    if params is None:
      return dataclasses.replace(of_folder(load.read(path)), name=str(name))
    kept = kept_models(path)
    if params not in kept:
      has = f'; it has {", ".join(kept)} (--params)' if kept else ''
      raise errors.UserError(f'{path} holds no model {params!r}{has}')
    model = of_folder(load.read(kept[params]))
    config = workdir.read_config(path)
    try:
      return dataclasses.replace(model, name=str(name), **_of_run(config))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
      raise _not_of_this_version(path, e) from e

  def load(
    self,
    mesh: Mesh,
    *,
    dtype: str | None = None,
    param_dtype: str | None = None,
    unroll: int | None = None,
    console: console_lib.Console | None = None,
  ) -> 'Model':
    """Reads the parameters of a described model; arguments as in `open`."""
    how = dict(self.overrides or {})
    given = {'dtype': dtype, 'param_dtype': param_dtype, 'unroll': unroll}
    how |= {name: value for name, value in given.items() if value is not None}
    denoiser, params = load.load(
      self.folder,
      mesh,
      dtype=how.get('dtype'),
      param_dtype=how.get('param_dtype'),
      screen=console,
    )
    record = self.record._replace(denoiser=denoiser).replace(**how)
    return dataclasses.replace(
      self, denoiser=record.denoiser, params=params, record=record, mesh=mesh
    )

  def decoder(
    self,
    decode: str | None = None,
    overrides: Mapping[str, Any] | None = None,
  ) -> types.Decoder:
    """One of the model's decoders.

    Args:
      decode: name of the decoder; None is the default one.
      overrides: values by field name, over the model's defaults.

    Raises:
      errors.UsageError: an override that the decoder does not have or refuses.
    """
    try:
      return decoding.apply_overrides(
        self.decoders, decode or self.decode, overrides or {}
      )
    except ValueError as e:
      raise errors.UsageError(str(e)) from e

  def encode(
    self,
    prompt: str | Sequence[int],
    template: chat.ChatTemplate = chat.PLAIN,
    prefill: str = '',
  ) -> list[int]:
    """The ids of a prompt.

    Args:
      prompt: text, or ids, which are returned as they are.
      template: chat template that is put around text.
      prefill: text that the completion begins with, after the template.

    Raises:
      errors.UserError: text that the tokenizer cannot spell, ids that the
        model does not have, or no tokens at all.
    """
    if not isinstance(prompt, str):
      last = self.record.vocab_size - 1
      if not prompt or not 0 <= min(prompt) <= max(prompt) <= last:
        raise errors.UserError(
          f'prompt_ids {folder_lib.short(list(prompt))} must be ids from 0 to '
          f'{last}, at least one'
        )
      return list(prompt)
    if self.tokenizer is None:
      raise errors.UserError(
        'the prompt is text, and the model has no tokenizer; give prompt_ids, '
        'or put the tokenizer into its folder'
      )
    try:
      pieces = template.render(prompt, prefill)
      ids = self.tokenizer.encode_pieces([pieces])[0].ids
    except ValueError as e:
      hint = ''
      if self.overrides is not None:
        hint = (
          '; the model of a run knows only the words of its task, most with '
          "the space before them (' 3', not '3'): write the prompt as the task "
          'does'
        )
      raise errors.UserError(f'{e}{hint}') from e
    if not ids:
      raise errors.UserError('the prompt has no tokens')
    return ids

  def complete(
    self,
    rows: Sequence[Sequence[int]],
    decoder: types.Decoder,
    *,
    seed: int = 0,
    batch_size: int = 8,
  ) -> Iterator[completions.Completion]:
    """Completions of encoded prompts, in order; see `completions.complete`."""
    self._check_loaded()
    self.check_window(rows, decoder)
    return completions.complete(
      self.denoiser,
      self.params,
      rows,
      decoder,
      vocab=self.vocab,
      tokenizer=self.tokenizer,
      mesh=self.mesh,
      seed=seed,
      batch_size=batch_size,
    )

  def check_window(
    self, rows: Sequence[Sequence[int]], decoder: types.Decoder
  ) -> None:
    """Refuses prompts that with their completions exceed a causal model.

    Raises:
      errors.UserError: names the tokens and the model's positions.
    """
    longest = max(map(len, rows), default=0)
    # The last round may draft beyond the completion.
    needed = longest + decoder.gen_length + decoder.largest_commit() - 1
    self._check_positions(
      needed,
      f'a prompt of {longest} tokens and gen_length={decoder.gen_length} need '
      f'{needed} positions, drafts included',
      'lower --gen_length',
    )

  def check_pairs(
    self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], advice: str
  ) -> None:
    """Refuses encoded pairs that exceed a table of positions.

    Args:
      pairs: (prompt, continuation).
      advice: what to do, in the error.

    Raises:
      errors.UserError: names the tokens and the model's positions.
    """
    if self.record.model and self.record.model.max_positions:
      longest = max((len(a) + len(b) for a, b in pairs), default=0)
      self._check_positions(
        longest, f'a pair of {longest} tokens needs as many', advice
      )

  def _check_positions(self, needed: int, what: str, advice: str) -> None:
    """Refuses more positions than the model has."""
    cfg, limits = self.record.model, {}
    if cfg:
      limits['max_positions'] = cfg.max_positions
    if self.is_causal:
      name = 'max_position_embeddings'
      limits[name] = self.record.config.get(name)
    for name, limit in limits.items():
      if type(limit) is int and 0 < limit < needed:
        raise errors.UserError(
          f'{what}, and {self._where} has {limit} ({name}): {advice}'
        )

  def generate(
    self,
    prompts: Sequence[str | Sequence[int]],
    decoder: types.Decoder | None = None,
    *,
    chat: bool | None = None,
    seed: int = 0,
    batch_size: int = 8,
  ) -> list[completions.Completion]:
    """Completes prompts.

    Args:
      prompts: texts, or ids.
      decoder: how to decode; None is the model's default, `decoder()`.
      chat: whether texts get the chat template; see `prompt_template`.
      seed: seed of the draws; those of a prompt depend on its place.
      batch_size: prompts decoded together.

    Raises:
      errors.UserError: the model is not loaded, or a prompt cannot be encoded.
    """
    self._check_loaded()
    template = self.prompt_template(chat)
    rows = [self.encode(text, template, self.prefill) for text in prompts]
    decoder = decoder or self.decoder()
    return list(self.complete(rows, decoder, seed=seed, batch_size=batch_size))

  def loglikelihood(
    self,
    pairs: Sequence[tuple[str | Sequence[int], str | Sequence[int]]],
    *,
    num_samples: int = 128,
    masking: str = 'count',
    cfg_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 8,
  ) -> list[float]:
    """log p(continuation | prompt) of (prompt, continuation) pairs, in nats.

    Exact for a causal model; for a masked diffusion model what `masking` names:
    the Monte-Carlo estimate of a lower bound, or the likelihood from left to
    right (`eval.masked_likelihood`).

    Args:
      pairs: texts, or ids; texts get no chat template and no prefill, and
        prompts of a causal model what opens its texts (`plain`).
      num_samples: masked canvases of a pair; not read for a causal model.
      masking: 'count' (LLaDA's), 'bernoulli' or 'left_to_right'; likewise.
      cfg_scale: scale of the guidance, None for none; likewise.
      seed: seed of the masks; those of a pair depend on its place.
      batch_size: pairs scored together.

    Raises:
      errors.UserError: the model is not loaded, or a text cannot be encoded.
      ValueError: a value is out of range.
    """
    self._check_loaded()
    estimate = masked_likelihood.Estimate(
      num_samples=num_samples, masking=masking, cfg_scale=cfg_scale
    )
    encoded = [(self.encode(a, self.plain), self.encode(b)) for a, b in pairs]
    self.check_pairs(encoded, 'shorten it')
    scored = likelihood.score(
      self.denoiser,
      self.params,
      encoded,
      vocab=self.vocab,
      mesh=self.mesh,
      estimate=estimate,
      seed=seed,
      batch_size=batch_size,
    )
    return scored.logp.tolist()

  def save(
    self, target: str | pathlib.Path, *, kept: Mapping[str, Any] | None = None
  ) -> None:
    """Writes a model folder; of a model with adapters, the adapters alone.

    Args:
      target: path of the new folder.
      kept: JSON values to store beside the weights (`hf.sidecar`).

    Raises:
      errors.UserError: as `hf.save.save`.
    """
    save.save(
      pathlib.Path(target),
      self.params,
      self.record._replace(denoiser=self.denoiser),
      text=self.folder.text if self.folder else self.tokenizer,
      base=hub.name_of(self.folder.base) if self.folder else '',
      kept=kept,
    )

  @property
  def is_causal(self) -> bool:
    """Whether it is a `types.CausalLM`, and not of masked diffusion."""
    return isinstance(self.denoiser, types.CausalLM)

  @functools.cached_property
  def plain(self) -> chat.ChatTemplate:
    """What prompts without a chat template are put into.

    For a causal model what its tokenizer puts before a text (LLaMA 3's BOS);
    for others nothing.

    Raises:
      errors.UserError: the tokenizer is damaged.
    """
    if not self.is_causal or self.tokenizer is None:
      return chat.PLAIN
    try:
      return chat.plain(self.tokenizer.opening)
    except ValueError as e:
      raise errors.UserError(f'the tokenizer of {self._where}: {e}') from e

  @functools.cached_property
  def template(self) -> chat.ChatTemplate:
    """The chat template of training: the folder's, or else the family's.

    Raises:
      errors.UserError: the template is damaged.
    """
    return self._own_template or self._family_template or self.plain

  @functools.cached_property
  def _own_template(self) -> chat.ChatTemplate | None:
    return self.folder and chat.from_directory(self.folder.text)

  @property
  def _family_template(self) -> chat.ChatTemplate | None:
    family = FAMILIES.get(self.record.family)
    return family.template if family and self.folder else None

  def prompt_template(self, wanted: bool | None) -> chat.ChatTemplate:
    """The chat template of a user's prompts.

    Args:
      wanted: whether to use one. None: as in training for the model of a run;
        otherwise the folder's own, unless the model's name or config says that
        it is a base model.

    Raises:
      errors.UserError: a template is wanted and there is none, or it is
        damaged.
    """
    if wanted is False:
      return self.plain
    names = (
      pathlib.PurePath(self.name).name,
      self.record.config.get('_name_or_path'),
    )
    is_base = any(_BASE_NAME.search(str(n)) for n in names)
    if wanted is None and self.overrides is None and is_base:
      return self.plain
    try:
      template = self._own_template
    except errors.UserError as e:
      raise errors.UserError(f'{e}; or decode without it: --nochat') from e
    if wanted or self.overrides is not None:
      template = template or self._family_template
    if wanted and template in (None, chat.PLAIN):
      raise errors.UsageError(
        f'{self._where} has no chat template; decode without: --nochat, or '
        'another --profile'
      )
    return template or self.plain

  def _check_loaded(self) -> None:
    if self.params is None or self.mesh is None:
      raise errors.UserError(
        f'{self._where} has no parameters on a mesh yet: use Model.open, or '
        'Model.load after Model.describe'
      )

  @property
  def _where(self) -> str:
    """What messages call the model."""
    return str(self.folder.path) if self.folder else 'the new model'


def resolve(
  name: str | pathlib.Path, params: str | None = None
) -> tuple[pathlib.Path, str | None]:
  """(workdir, which model of it), or (model folder, None).

  Raises:
    errors.UserError: there is no such folder, or `params` is given and it is
      not a workdir.
  """
  path = hub.locate(str(name))
  if workdir.read_config(path) is not None:
    return path, params or _last_model(path)
  if params is not None:
    raise errors.UsageError(
      f'--params {params} is for the workdir of a run, and {path} is not one'
    )
  in_run = path.name in policies.NAMES and workdir.read_config(path.parent)
  return (path.parent, path.name) if in_run else (path, None)


def _last_model(directory: pathlib.Path) -> str:
  """'final'; or 'base' of a finished run that trained nothing after it."""
  is_finished = (directory / record.EVAL_FILE).exists()
  has = lambda name: (directory / name).exists()
  return 'base' if is_finished and has('base') and not has('final') else 'final'


def kept_models(directory: pathlib.Path) -> dict[str, pathlib.Path]:
  """Folders of the models of a run, by name; its base may be elsewhere.

  Raises:
    errors.UserError: the run's config is of another version.
  """
  kept = {name: directory / name for name in policies.NAMES}
  config = workdir.read_config(directory)
  if config is not None and not kept['base'].exists():
    try:
      kept['base'] = hub.place(config['base']['path'] or str(kept['base']))
    except (KeyError, TypeError, AttributeError) as e:
      raise _not_of_this_version(directory, e) from e
  return {name: path for name, path in kept.items() if path.exists()}


def _not_of_this_version(
  directory: pathlib.Path, error: Exception
) -> errors.UserError:
  return errors.UserError(
    f'{directory / workdir.CONFIG_FILE} is not of this version: {error!r}'
  )


def of_words(
  denoiser: types.Trainable,
  tokenizer: tokenizer_lib.Tokenizer,
  group: Mapping[str, Any],
) -> Model:
  """A new model with a word-level tokenizer.

  Args:
    denoiser: the model.
    tokenizer: its tokenizer; with [MASK], but for a causal model.
    group: the config group `model` that it was made from.
  """
  special = hf_config.Special(
    mask_token=tokenizer.mask_token,
    eos_tokens=(tokenizer.eos_token,),
    pad_token=tokenizer.special.pad,
  )
  record = hf_config.Record(hf_config.NATIVE, denoiser, special)
  if record.model is None:
    config = hf_config.native(group, tokenizer.vocab_size, special)
    record = record._replace(config=config)
  else:
    record = record._replace(family=hf_config.family_of(record.model))
  return Model(
    denoiser=denoiser,
    record=record,
    vocab=tokenizer.vocabulary(),
    tokenizer=tokenizer,
    **_default_decoding(denoiser),
  )


def _default_decoding(denoiser: types.Denoiser) -> dict[str, Any]:
  """The decoders of a model that no run trained."""
  is_causal = isinstance(denoiser, types.CausalLM)
  values = dict(DECODING)
  if block := types.block_causal(denoiser):
    length = max(1, values['gen_length'] // block) * block
    values |= {'block_length': block, 'gen_length': length, 'num_steps': length}
  return {
    'decoders': decoding.make_decoders(values, is_causal=is_causal),
    'decode': 'autoregressive' if is_causal else 'fixed',
  }


def of_folder(folder: load.Folder) -> Model:
  """Describes the model of a folder; no weight is read."""
  record, tokenizer = folder.record, None
  if any(folder_lib.has(folder.text, name) for name in table.TOKENIZERS):
    tokenizer = tokenizer_lib.Tokenizer.from_directory(
      folder.text, model=record.config
    )
    tokenizer.check_rows(record.vocab_size, str(folder.path))
  try:
    if tokenizer is None:
      vocab = hf_config.vocabulary(record.special, record.vocab_size)
    else:  # The tokenizer of a causal model may have a mask token too.
      vocab = dataclasses.replace(
        tokenizer.vocabulary(), mask_token=record.special.mask_token
      )
  except ValueError as e:
    raise errors.UserError(f'{folder.path}: {e}') from e
  return Model(
    denoiser=record.denoiser,
    record=record,
    vocab=vocab,
    tokenizer=tokenizer,
    folder=folder,
    **_default_decoding(record.denoiser),
  )


def _of_run(config: Mapping[str, Any]) -> dict[str, Any]:
  """The default decoding of a run's models: that of launch/eval.py.

  Args:
    config: the run's config, as nested dicts.
  """
  values = {
    name: value
    for name, value in config['rollout'].items()
    if decoding.users(name)
  }
  decode = config['rollout']['decode']
  is_causal = decoding.DECODERS[decode].is_causal
  names = model_config.HOW_IT_RUNS
  if config['model']['name'] != 'transformer':
    names = ()
  return {
    'decoders': decoding.greedy(
      decoding.make_decoders(values, is_causal=is_causal),
      threshold=config['eval']['threshold'],
    ),
    'decode': decode,
    'prefill': config['rollout']['prefill'],
    'overrides': {k: config['model'][k] for k in names if k in config['model']},
  }
