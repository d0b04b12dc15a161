"""The part that all our TFDS builders share: rows written in their order."""

from collections.abc import Iterable

import tensorflow_datasets as tfds

from dllm_jax.tasks import task as task_lib


class RowBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Builds the splits of its configuration.

  The configuration has two methods: `features()`, the feature of each field,
  and `splits()`, the rows of each split. Subclasses set `VERSION`; their names
  are the names of the data sets.
  """

  BUILDER_CONFIGS = []

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(self.builder_config.features()),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing to download
    splits = self.builder_config.splits()
    return {name: self._generate_examples(splits[name]) for name in splits}

  def _generate_examples(self, rows: Iterable[task_lib.Row]):
    yield from enumerate(rows)
