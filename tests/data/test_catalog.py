"""Checksums of data files, and downloads from a local server."""

import contextlib
import functools
import hashlib
import http.server
import re
import socketserver
import threading
import time

import pytest

from dllm_jax import errors
from dllm_jax.data import benchmarks, catalog, download

BODY = b'{"question": "?", "answer": "#### 1"}\n'


def _file(url='', body=BODY):
  return catalog.DataFile(
    path='gsm8k/a.jsonl',
    sha256=hashlib.sha256(body).hexdigest(),
    num_bytes=len(body),
    num_rows=1,
    licence='MIT',
    url=url,
  )


def test_real_files_match_the_catalog(shared_dir):
  for file in catalog.FILES.values():
    path = catalog.checked(file, shared_dir / 'data')
    assert path.stat().st_size == file.num_bytes


def test_every_file_of_a_split_is_in_the_catalog():
  used = {f for splits in benchmarks.SPLITS.values() for f in splits.values()}
  own = {'kodcode/train.jsonl', 'paraphrases/train.jsonl'}
  assert used - set(catalog.FILES) == own
  for path, file in catalog.FILES.items():
    assert file.path == path and file.licence and file.num_rows > 0
    assert re.fullmatch('[0-9a-f]{64}', file.sha256)
    assert not file.url or file.url.startswith('https://github.com/')


def test_missing_or_changed_file_is_refused_with_a_hint(tmp_path):
  file = _file('https://example.org/a')
  with pytest.raises(errors.UserError, match='is missing: set data_dir'):
    catalog.checked(file, tmp_path)
  path = tmp_path / file.path
  path.parent.mkdir()
  path.write_bytes(BODY)
  assert catalog.checked(file, tmp_path) == path
  path.write_bytes(BODY.replace(b'1', b'2'))
  with pytest.raises(errors.UserError) as caught:
    catalog.checked(file, tmp_path)
  line = str(caught.value)
  assert 'another version' in line and '\n' not in line
  assert 'python -m dllm_jax.data.download --task gsm8k' in line
  with pytest.raises(errors.UserError, match='copy it there yourself'):
    catalog.checked(file._replace(url=''), tmp_path)


@pytest.fixture
def server(tmp_path):
  """The address of a folder that is served, and the folder."""
  folder = tmp_path / 'served'
  folder.mkdir()

  class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
      pass

  handler = functools.partial(Handler, directory=str(folder))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{httpd.server_port}', folder
    httpd.shutdown()
    thread.join()


def _left(folder):
  return sorted(
    str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()
  )


def test_fetch_downloads_once_and_replaces_a_damaged_file(server, tmp_path):
  address, served = server
  (served / 'a').write_bytes(BODY)
  data = tmp_path / 'data'
  file = _file(f'{address}/a')
  path = download.fetch(file, data)
  assert path.read_bytes() == BODY and _left(data) == ['gsm8k/a.jsonl']
  # What is there is kept, without asking again.
  (served / 'a').unlink()
  assert download.fetch(file, data) == path
  path.write_bytes(b'')
  with pytest.raises(errors.UserError, match='cannot download'):
    download.fetch(file, data)


def test_fetch_reads_a_file_url(tmp_path):
  source = tmp_path / 'a'
  source.write_bytes(BODY)
  path = download.fetch(_file(source.as_uri()), tmp_path / 'data')
  assert path.read_bytes() == BODY


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (BODY + b' ', 'it has more than 38 bytes'),
    (BODY * 10**5, 'it has more than 38 bytes'),
    (BODY[:-1], 'no longer the expected file: expected sha256'),
    (BODY.replace(b'1', b'2'), 'no longer the expected file: expected sha256'),
    (None, 'cannot download'),
  ],
)
def test_wrong_download_is_refused_and_leaves_no_files(
  server, tmp_path, body, message
):
  address, served = server
  if body is not None:
    (served / 'a').write_bytes(body)
  data = tmp_path / 'data'
  with pytest.raises(errors.UserError, match=message) as caught:
    download.fetch(_file(f'{address}/a'), data)
  assert '\n' not in str(caught.value) and _left(data) == []


@pytest.fixture
def raw_server():
  """The address of a server that answers as `script` says."""
  script = []

  class Handler(socketserver.BaseRequestHandler):
    def handle(self):
      self.request.recv(65536)
      with contextlib.suppress(OSError):
        for part in script:
          self.request.sendall(part)
          time.sleep(0.05)

  with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{server.server_address[1]}/a', script
    server.shutdown()
    thread.join()


@pytest.mark.parametrize(
  'answer',
  [
    b'nonsense\r\n\r\n',
    b'HTTP/1.1 200 OK\r\n' + b'a: b\r\n' * 200 + b'\r\n',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n',
  ],
)
def test_invalid_http_response_is_one_line(raw_server, tmp_path, answer):
  address, script = raw_server
  script.append(answer)
  data = tmp_path / 'data'
  with pytest.raises(errors.UserError, match='cannot download') as caught:
    download.fetch(_file(address), data)
  assert '\n' not in str(caught.value) and _left(data) == []


def test_slow_download_times_out(raw_server, tmp_path, monkeypatch):
  address, script = raw_server
  script.append(b'HTTP/1.1 200 OK\r\n\r\n')
  script += [BODY[i : i + 1] for i in range(len(BODY))]
  assert download.fetch(_file(address), tmp_path / 'a').read_bytes() == BODY
  monkeypatch.setattr(download, 'TOTAL_SECONDS', 0.2)
  with pytest.raises(errors.UserError, match='timed out after 0.2 seconds'):
    download.fetch(_file(address), tmp_path / 'b')
  assert _left(tmp_path / 'b') == []


def test_unwritable_path_and_missing_address_are_refused(tmp_path):
  source = tmp_path / 'a'
  source.write_bytes(BODY)
  with pytest.raises(errors.UserError, match='cannot download .* to '):
    download.fetch(_file(source.as_uri()), source)
  with pytest.raises(errors.UserError, match='no public address'):
    download.fetch(_file(), tmp_path)


def test_command_prints_files_and_returns_1_on_failure(
  server, tmp_path, monkeypatch, capsys
):
  address, served = server
  (served / 'a').write_bytes(BODY)
  by_hand = _file()._replace(path='gsm8k/b.jsonl')
  files = {'gsm8k/a.jsonl': _file(f'{address}/a'), 'gsm8k/b.jsonl': by_hand}
  monkeypatch.setattr(catalog, 'FILES', files)
  args = ['--task', 'gsm8k', '--data_dir', str(tmp_path / 'data')]
  assert download.main(args) == 0
  out = capsys.readouterr().out
  assert '1 rows, MIT' in out and 'b.jsonl: no public address' in out
  (served / 'a').unlink()
  (tmp_path / 'data' / 'gsm8k' / 'a.jsonl').unlink()
  assert download.main(args) == 1
  assert capsys.readouterr().err.startswith('download: cannot download')
