"""Hashes of data files, and their downloads from a local server."""

import contextlib
import dataclasses
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


def test_the_real_files(shared_dir):
  for file in catalog.FILES.values():
    path = catalog.checked(file, shared_dir / 'data')
    assert path.stat().st_size == file.num_bytes


def test_records_are_complete():
  used = {f for splits in benchmarks.SPLITS.values() for f in splits.values()}
  assert used - set(catalog.FILES) == {'kodcode/train.jsonl'}
  for path, file in catalog.FILES.items():
    assert file.path == path and file.licence and file.num_rows > 0
    assert re.fullmatch('[0-9a-f]{64}', file.sha256)
    assert not file.url or file.url.startswith('https://github.com/')


def test_another_file_is_refused(tmp_path):
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
  with pytest.raises(errors.UserError, match='by hand'):
    catalog.checked(dataclasses.replace(file, url=''), tmp_path)


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


def test_download(server, tmp_path):
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
  with pytest.raises(errors.UserError, match='cannot be fetched'):
    download.fetch(file, data)


def test_a_file_url(tmp_path):
  source = tmp_path / 'a'
  source.write_bytes(BODY)
  path = download.fetch(_file(source.as_uri()), tmp_path / 'data')
  assert path.read_bytes() == BODY


@pytest.mark.parametrize(
  ('body', 'message'),
  [
    (BODY + b' ', 'more than the'),
    (BODY * 10**5, 'more than the'),
    (BODY[:-1], 'holds now is another file: its sha256'),
    (BODY.replace(b'1', b'2'), 'holds now is another file: its sha256'),
    (None, 'cannot be fetched'),
  ],
)
def test_a_wrong_download_leaves_nothing(server, tmp_path, body, message):
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
def test_a_server_that_is_none(raw_server, tmp_path, answer):
  address, script = raw_server
  script.append(answer)
  data = tmp_path / 'data'
  with pytest.raises(errors.UserError, match='cannot be fetched') as caught:
    download.fetch(_file(address), data)
  assert '\n' not in str(caught.value) and _left(data) == []


def test_a_server_that_is_slow(raw_server, tmp_path, monkeypatch):
  address, script = raw_server
  script.append(b'HTTP/1.1 200 OK\r\n\r\n')
  script += [BODY[i : i + 1] for i in range(len(BODY))]
  assert download.fetch(_file(address), tmp_path / 'a').read_bytes() == BODY
  monkeypatch.setattr(download, 'TOTAL_SECONDS', 0.2)
  with pytest.raises(errors.UserError, match='after 0.2 seconds'):
    download.fetch(_file(address), tmp_path / 'b')
  assert _left(tmp_path / 'b') == []


def test_places_that_cannot_be_written(tmp_path):
  source = tmp_path / 'a'
  source.write_bytes(BODY)
  with pytest.raises(errors.UserError, match='cannot be fetched to'):
    download.fetch(_file(source.as_uri()), source)
  with pytest.raises(errors.UserError, match='no public address'):
    download.fetch(_file(), tmp_path)


def test_the_command(server, tmp_path, monkeypatch, capsys):
  address, served = server
  (served / 'a').write_bytes(BODY)
  by_hand = dataclasses.replace(_file(), path='gsm8k/b.jsonl')
  files = {'gsm8k/a.jsonl': _file(f'{address}/a'), 'gsm8k/b.jsonl': by_hand}
  monkeypatch.setattr(catalog, 'FILES', files)
  args = ['--task', 'gsm8k', '--data_dir', str(tmp_path / 'data')]
  assert download.main(args) == 0
  out = capsys.readouterr().out
  assert '1 rows, MIT' in out and 'b.jsonl: no public address' in out
  (served / 'a').unlink()
  (tmp_path / 'data' / 'gsm8k' / 'a.jsonl').unlink()
  assert download.main(args) == 1
  assert capsys.readouterr().err.startswith('download: http://127')
