"""Chat templates: what stands before and after a user's message.

A prompt is one user turn and the header of the answer, so its template is
two texts. Those of the supported families are written out; any other comes from
a directory's Jinja source, which is rendered once, with messages that show the
two texts, in a limited process (`text/render.py`). A template that does more
to a message than put text around it is refused.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dllm_jax import errors
from dllm_jax.text import json_file, pieces, render, special

# Classes of transformers that name no special tokens by themselves.
_PLAIN_CLASSES = ('PreTrainedTokenizerFast', 'TokenizersBackend')
# Messages that a template must leave as they are, except for spaces at the
# ends: what templates are known to branch on, or to rewrite.
_PROBES = (
  'one (alpha) message',
  ' \n two: {{ 7 * 7 }} {% raw %} <think>b</think>\t\n',
  '<|im_start|>user\n[INST] <tool_response>x</tool_response>',
  '<tool_response>\nx\n</tool_response>',
  '',
  '7',
  'None',
  '/no_think Is <b> & "c" \'d\' 1 < 2 > 0?',
  '{"name": "f", "arguments": {}}\n\n\n```python\nx = [1]\n```\n\n- a',
  'ÄÖ \u00e9 e\u0301 \u4f60\u597d \U0001f600 \u200b %s \\n https://a.b/c?d=e#f',
  'Long. ' * 500 + 'END',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatTemplate:
  """A turn of the user's and the header of the answer.

  Attributes:
    before: text before the message.
    after: text after it, the answer's header at its end.
    strip: whether spaces at the message's ends are dropped.
    source: Jinja source of whole conversations; '' where there is none.
    variables: of the source, beside the messages; (name, value) pairs.
    examples: text before every message, as a part of it.
  """

  before: str
  after: str
  strip: bool = False
  source: str = dataclasses.field(default='', compare=False, repr=False)
  variables: tuple[tuple[str, Any], ...] = dataclasses.field(
    default=(), compare=False, repr=False
  )
  examples: str = ''

  def render(self, message: str, prefill: str = '') -> list[pieces.Piece]:
    """The prompt of a message.

    Args:
      message: the user's, text throughout, special tokens spelled in it too.
      prefill: text that the answer begins with, as part of the prompt.
    """
    text = message.strip() if self.strip else message
    if not self.after:
      text = text.removeprefix(self.before)  # not twice
    return [
      pieces.Piece(self.before, True),
      pieces.Piece(self.examples + text, False),
      pieces.Piece(self.after + prefill, True),
    ]

  def conversation(
    self, messages: Sequence[Mapping[str, str]], *, is_prompt: bool = True
  ) -> str:
    """The text of a conversation.

    Args:
      messages: turns with 'role' and 'content'.
      is_prompt: whether the header of an answer follows; if not, the text ends
        with the last message, which is to be continued.

    Raises:
      errors.UserError: there is no source, or it refuses the messages.
    """
    try:
      if not self.source:
        raise ValueError('there is none for a conversation')
      run = run_of(messages, dict(self.variables), is_prompt=is_prompt)
      [text] = render.render(self.source, [run])
    except ValueError as e:
      line = ' '.join(str(e).split())
      raise errors.UserError(f'the chat template: {line}') from e
    if is_prompt:
      return text
    last = messages[-1]['content'].strip()
    return text.rpartition(last)[0] + last


# No template: the message itself.
PLAIN = ChatTemplate(before='', after='')


def plain(opening: str) -> ChatTemplate:
  """The message after the special tokens that open a text; see `PLAIN`."""
  return ChatTemplate(before=opening, after='')


_CHATML = (
  "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
  "{{ message['content'] }}<|im_end|>\n{% endfor %}"
  '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)


def chatml(system: str | None) -> ChatTemplate:
  """Qwen's layout, also Dream's."""
  head = f'<|im_start|>system\n{system}<|im_end|>\n' if system else ''
  opening = (
    "{% if messages[0]['role'] != 'system' %}" + head + '{% endif %}'
    if head
    else ''
  )
  return ChatTemplate(
    before=f'{head}<|im_start|>user\n',
    after='<|im_end|>\n<|im_start|>assistant\n',
    source=opening + _CHATML,
  )


# Where a directory has a template, that one is right (`from_directory`): these
# are for those without, and 'qwen2' has the system text of Qwen2, where
# Qwen2.5's begins "You are Qwen, created by Alibaba Cloud.".
_LLADA_HEADER = '<|start_header_id|>{}<|end_header_id|>\n\n'
FAMILIES = {
  'llada': ChatTemplate(
    before='<|startoftext|>' + _LLADA_HEADER.format('user'),
    after='<|eot_id|>' + _LLADA_HEADER.format('assistant'),
    strip=True,
    source=(
      '<|startoftext|>{% for message in messages %}'
      + _LLADA_HEADER.format("{{ message['role'] }}")
      + "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
      '{% if add_generation_prompt %}'
      + _LLADA_HEADER.format('assistant')
      + '{% endif %}'
    ),
  ),
  'dream': chatml('You are a helpful assistant.'),
  'qwen2': chatml('You are a helpful assistant.'),
  'qwen3': chatml(None),
}


def from_jinja(
  source: str,
  *,
  system: str | None = None,
  variables: Mapping[str, Any] | None = None,
) -> ChatTemplate:
  """The two texts of a Jinja template.

  Args:
    source: the template; not trusted.
    system: text of a system message before the user's; part of the template.
    variables: template variables (`bos_token`, `enable_thinking`).

  Raises:
    ValueError: in one line, if it fails, does not end, or does more to a
      message than put text around it.
  """
  variables = dict(variables or {})
  opening = [{'role': 'system', 'content': system}] if system else []
  names = [value for value in variables.values() if isinstance(value, str)]
  probes = [*_PROBES, ' '.join(['a', *names, 'b'])]
  texts = render.render(
    source,
    [
      run_of([*opening, {'role': 'user', 'content': probe}], variables)
      for probe in probes
    ],
  )
  before, message, after = texts[0].partition(_PROBES[0])
  if not message or _PROBES[0] in after:
    raise ValueError('the chat template does not show its message once')
  for strip in (False, True):
    made = ChatTemplate(
      before=before,
      after=after,
      strip=strip,
      source=source,
      variables=tuple(variables.items()),
    )
    if texts == [pieces.joined(made.render(probe)) for probe in probes]:
      return made
  raise ValueError(
    'the chat template rewrites its message, or depends on it; use the one of '
    f'a family: {", ".join(FAMILIES)}'
  )


def run_of(
  messages: Sequence[Mapping[str, str]],
  variables: Mapping[str, Any],
  *,
  is_prompt: bool = True,
) -> dict[str, Any]:
  """What a template is rendered with.

  Args:
    messages: with `role` and `content`.
    variables: beside them.
    is_prompt: whether the header of an answer ends the text.
  """
  return {
    'add_generation_prompt': is_prompt,
    'tools': None,
    'documents': None,
    **variables,
    'messages': list(messages),
  }


def from_directory(
  path: str | pathlib.Path,
  *,
  system: str | None = None,
  options: Mapping[str, Any] | None = None,
) -> ChatTemplate | None:
  """The chat template of a Hugging Face directory; None where it has none.

  Args:
    path: it holds chat_template.jinja or tokenizer_config.json.
    system: as in `from_jinja`.
    options: variables beside the special tokens' texts.

  Raises:
    errors.UserError: if the template is damaged, hostile or unsuitable.
  """
  path = pathlib.Path(path)
  try:
    config = json_file.read_optional(path / 'tokenizer_config.json')
    token_map = json_file.read_optional(path / 'special_tokens_map.json')
    source = _source(path, config)
    if source is None:
      return None
    names, _ = special.names(config, token_map)
    # A class of transformers may have a default for what no file names.
    plain = config.get('tokenizer_class') in _PLAIN_CLASSES
    for key in ('bos_token', 'eos_token', 'pad_token', 'unk_token'):
      if key in source and not plain and not {key} & {*config, *token_map}:
        raise ValueError(
          f'the chat template uses {key}, which no file names; set it in '
          'tokenizer_config.json, to null if there is none'
        )
    return from_jinja(
      source, system=system, variables=names | dict(options or {})
    )
  except (ValueError, OSError) as e:
    line = ' '.join(str(e).split())
    raise errors.UserError(f'{path}: {line}') from e


def _source(path: pathlib.Path, config: Mapping[str, Any]) -> str | None:
  """The Jinja source of a directory; of several, the one named 'default'."""
  file = path / 'chat_template.jinja'
  if file.exists():
    return json_file.read_text(file, 4 * render.MAX_SOURCE)
  source = config.get('chat_template')
  others = sorted((path / 'additional_chat_templates').glob('*.jinja'))
  if others:  # they replace those of the configuration
    source = {file.stem: None for file in others}
  if isinstance(source, list):
    source = {
      entry['name']: entry.get('template')
      for entry in source
      if isinstance(entry, dict) and isinstance(entry.get('name'), str)
    }
  if isinstance(source, dict):
    if not isinstance(source.get('default'), str):
      raise ValueError(
        f'none of the chat templates {sorted(source)!r:.200} is the default, '
        'with a text; save one as chat_template.jinja'
      )
    source = source['default']
  if source is not None and not isinstance(source, str):
    raise ValueError('chat_template of tokenizer_config.json is not text')
  if source is None and (path / 'chat_template.json').exists():
    raise ValueError(
      'chat_template.json is for processors; save its template as '
      'chat_template.jinja'
    )
  return source
