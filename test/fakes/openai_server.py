"""A fake OpenAI chat server without a model, which behaves or misbehaves as a test specifies.

Modelled after vLLM 0.32 and `transformers serve` 5.x; test_real_servers.py runs against those.
"""
from __future__ import annotations

import base64
import contextlib
import json
import math
import re
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

MODEL = 'cropond-3b'
COMMON = {'model', 'messages', 'temperature', 'stream', 'max_tokens'}
BEFORE = '```json\n[\n\t{"point_2d": ['
PAGE = b'<!DOCTYPE html><html><title>Please log in</title></html>'
STEP_S = 0.02
# What may complete the beginning of two numbers and a bracket.
COMPLETIONS = ('', ']', '0]', '1]', ' 0]', ', 0]', '0, 0]', '1, 1]')
TOKEN = re.compile(r'\d|\D+')


@dataclass
class ServerBehaviour:
    """How a server behaves. fields: supported fields, in addition to the common protocol.

    ignores: fields that it accepts without effect. strict: refuse all others with 422. answer: the
    numbers of the reply, from those of the question. free: an unconstrained reply with these
    numbers. owner: what the listed models are owned by. continues: it goes on with a last message
    of the assistant unasked. repeats: and begins the reply with it. sure: probability of each
    digit. tokens: the logprobs of a reply, instead. echo: body of an echoed reply. location:
    target of a redirect. model: name in the replies. root: origin of the listed models. faults: of
    the next chat requests, one each; always: of all. limit: of the tokens of a reply, below that of
    the request. writes: a model instead of all that: the probabilities of the next token after a
    reply so far to a request, '' for its end. together: a reply waits until as many requests about
    images are in progress.
    """

    fields: set[str] = field(default_factory=lambda: {
        'structured_outputs', 'repetition_penalty', 'add_generation_prompt',
        'continue_final_message', 'logprobs', 'top_logprobs'})
    ignores: set[str] = field(default_factory=set)
    strict: bool = False
    key: str = ''
    models: tuple[str, ...] | int = (MODEL,)
    owner: str = 'vllm'
    root: str = '/models/one'
    answer: Callable[[str, str], tuple[str, str]] = lambda x, y: (x, y)
    free: Callable[[str, str], str] = lambda x, y: f'{BEFORE}{x}, {y}], "label": "it"}}\n]\n```'
    sure: float = 0.99
    tokens: Callable[[str], object] | None = None
    echo: bytes = b''
    location: str = 'https://elsewhere.example/login'
    model: str = MODEL
    faults: list[str] = field(default_factory=list)
    always: str = ''
    retry_after: str = '7'
    limit: int = 10_000
    writes: Callable[[str, dict], dict[str, float]] | None = None
    together: int = 0
    continues: bool = False
    repeats: bool = False


VLLM = ServerBehaviour


def make_transformers_serve() -> ServerBehaviour:
    """`transformers serve`: no constraints, no log-probabilities, no list of models offline."""
    return ServerBehaviour(fields={'frequency_penalty', 'logprobs', 'top_logprobs'},
                   ignores={'logprobs', 'top_logprobs'}, strict=True, models=500)


def make_llama_server(**how) -> ServerBehaviour:
    """`llama-server`: grammars (GBNF); it continues an assistant's message by itself."""
    return ServerBehaviour(fields={'grammar', 'repeat_penalty', 'logprobs', 'top_logprobs'},
                           owner='llamacpp', continues=True, **how)


def make_ollama(**how) -> ServerBehaviour:
    """Ollama: its own chat takes both images in a message, and a JSON schema as `format`."""
    return ServerBehaviour(fields={'logprobs', 'top_logprobs', 'format'}, owner='library', **how)


def make_openai(**how) -> ServerBehaviour:
    """OpenAI: a JSON schema as `response_format`, and no other than its own fields."""
    return ServerBehaviour(fields={'logprobs', 'top_logprobs', 'response_format',
                                   'frequency_penalty', 'max_completion_tokens'},
                           strict=True, owner='system', **how)


def compile_grammar(grammar: str) -> re.Pattern:
    """Return the regular expression of a GBNF grammar of literals, classes and optional parts."""
    rules = dict(line.split(' ::= ', 1) for line in grammar.splitlines())

    def translate(rule: str) -> str:
        parts = re.findall(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[()|?]|\w+', rule)
        return ''.join(
            re.escape(json.loads(part)) if part[0] == '"' else
            f'(?:{translate(rules[part])})' if part in rules else part for part in parts)

    return re.compile(translate(rules['root']))


class FakeOpenAIServer:
    """Listens on 127.0.0.1 until `stop`, which also ends running requests."""

    def __init__(self, behaviour: ServerBehaviour | None = None, port: int = 0,
                 certificate: str = '', host: str = '127.0.0.1') -> None:
        self.behaviour = behaviour or ServerBehaviour()
        self.requests: list[dict] = []
        self.authorizations: list[str] = []
        self.image_tokens: dict[str, int] = {}  # by data url
        self.connections = 0
        self.stopped = threading.Event()
        self.in_progress = self.most_in_progress = 0  # of the requests about images
        self._arrived = threading.Condition()
        self._sockets: list[socket.socket] = []
        self._http = (_Http6 if ':' in host else _Http)((host, port), _RequestHandler)
        self._http.owner = self
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        self.url = f'http{"s" if certificate else ""}://127.0.0.1:{self.port}/v1'
        self._thread = threading.Thread(target=self._http.serve_forever, args=(STEP_S,))
        self._thread.start()

    def on_connect(self, connection: socket.socket) -> None:
        self.connections += 1
        self._sockets.append(connection)

    @contextlib.contextmanager
    def overlap(self, body: dict):
        """Count a request about images while it is answered; wait for others as specified."""
        if not any(message.get('images') or (isinstance(message['content'], list)
                   and len(message['content']) > 1) for message in body['messages']):
            yield
            return
        with self._arrived:
            self.in_progress += 1
            self.most_in_progress = max(self.most_in_progress, self.in_progress)
            self._arrived.notify_all()
            self._arrived.wait_for(lambda: self.stopped.is_set() or (
                self.most_in_progress >= self.behaviour.together), 30)
        yield
        with self._arrived:
            self.in_progress -= 1

    def stop(self) -> None:
        """End at once, as when the process is killed."""
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    @property
    def forced(self) -> list[dict]:
        """The questions about images whose reply is begun, or held to a form."""
        return [r for r in self.find_requests('first image')
                if {'structured_outputs', 'grammar', 'response_format', 'format'} & r.keys()
                or r['messages'][-1]['role'] == 'assistant']

    def find_requests(self, text: str) -> list[dict]:
        """Return the requests whose question contains a text."""
        return [r for r in self.requests if text in json.dumps(r)]


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # with 5, of 16 connections at once some wait a second
    owner: FakeOpenAIServer

    def handle_error(self, request, client_address) -> None:
        """Ignore it: some tests close the connection."""


class _Http6(_Http):
    address_family = socket.AF_INET6


class _RequestHandler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.owner.on_connect(self.connection)

    def log_message(self, *_args) -> None:
        """Say nothing."""

    @property
    def behaviour(self) -> ServerBehaviour:
        return self.server.owner.behaviour

    def do_GET(self) -> None:
        if not self._allowed():
            return
        models = self.behaviour.models
        if isinstance(models, int):
            self._reply(models, {'detail': 'Internal Server Error'})
        else:
            self._reply(200, {'object': 'list', 'data': [
                {'id': name, 'root': self.behaviour.root, 'owned_by': self.behaviour.owner}
                for name in models]})

    def do_POST(self) -> None:
        owner, behaviour = self.server.owner, self.behaviour
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        owner.requests.append(body)
        owner.authorizations.append(self.headers.get('Authorization', ''))
        if not self._allowed():
            return
        fault = behaviour.faults.pop(0) if behaviour.faults else behaviour.always
        if fault:
            getattr(self, f'_{fault}')() if not fault.isdigit() else self._reply(
                int(fault), {'error': {'message': f'scripted {fault}'}})
            return
        with owner.overlap(body):
            status, reply = self._native(body) if self.path == '/api/chat' \
                else self._completion(body)
            self._reply(status, reply)

    def _allowed(self) -> bool:
        given = self.headers.get('Authorization', '')
        if not self.behaviour.key or given == f'Bearer {self.behaviour.key}':
            return True
        self._reply(401, {'error': {'message': f'wrong key: {given}'}})
        return False

    def _reply(self, status: int, content: dict | bytes, kind: str = 'application/json') -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    # --- a model that repeats the point it was asked about

    def _native(self, body: dict) -> tuple[int, dict]:
        """Answer Ollama's own chat."""
        options = body.pop('options')
        assert options == {'temperature': 0.0, 'repeat_penalty': 1.0,
                           'num_predict': options['num_predict']}
        body['messages'] = [{'role': m['role'], 'content': [
            *({'type': 'image_url', 'image_url': {'url': f'data:;base64,{image}'}}
              for image in m['images']), {'type': 'text', 'text': m['content']}]}
            for m in body['messages']]
        status, reply = self._completion({**body, 'max_tokens': options['num_predict']})
        if status != 200:
            return status, {'error': reply['error']['message']}
        choice = reply['choices'][0]
        return 200, {'model': reply['model'], 'message': choice['message'], 'done': True,
                     'done_reason': choice['finish_reason'],
                     'logprobs': choice.get('logprobs', {}).get('content'),
                     'prompt_eval_count': reply['usage']['prompt_tokens'], 'eval_count': 9}

    def _completion(self, body: dict) -> tuple[int, dict]:
        behaviour, fields = self.behaviour, body.keys() - COMMON
        if body['model'] != MODEL:
            return 404, {'error': {'message': f'The model `{body["model"]}` does not exist.'}}
        if 'max_completion_tokens' in behaviour.fields and 'max_tokens' in body:
            return 400, {'error': {'message': "Unsupported parameter: 'max_tokens' is not "
                                   "supported: use 'max_completion_tokens' instead."}}
        if behaviour.strict and fields - behaviour.fields:
            return 422, {'detail': f'Unexpected keys in the request: {sorted(fields)}'}
        honoured = fields & (behaviour.fields - behaviour.ignores)
        begun = ''
        if body['messages'][-1]['role'] == 'assistant' and (
                behaviour.continues or 'continue_final_message' in honoured):
            begun = body['messages'][-1]['content']
        tokens = self._prompt_tokens(body, bool(begun))
        limit = body.get('max_tokens') or body.get('max_completion_tokens') or 10_000
        logged = None
        if behaviour.writes:
            logged = self._write(begun, limit, body)
            written = [token['token'] for token in logged]
        else:
            written = TOKEN.findall(self._text(body, honoured, begun))
        text = ''.join(written[:min(limit, behaviour.limit)])
        choice = {'index': 0, 'message': {
            'role': 'assistant', 'content': (begun if behaviour.repeats else '') + text},
                  'finish_reason': 'stop' if text == ''.join(written) else 'length',
                  'unknown': {'nested': [1, None]}}
        if 'top_logprobs' in honoured:
            choice['logprobs'] = self.behaviour.tokens(text) if self.behaviour.tokens else {
                'content': logged or list(map(self._token, TOKEN.findall(text)))}
        return 200, {'id': 'chat-1', 'model': behaviour.model, 'choices': [choice],
                     'surprise': True,
                     'usage': {'prompt_tokens': tokens, 'completion_tokens': 9}}

    def _write(self, text: str, limit: int, body: dict) -> list[dict]:
        """Take the likeliest token each time; return the tokens with their alternatives.

        What a regular expression does not allow has no probability, as with vLLM.
        """
        tokens: list[dict] = []
        regex, begun = body.get('structured_outputs', {}).get('regex', '(?s).*'), len(text)
        while len(tokens) < limit:
            following = {token: p for token, p in self.behaviour.writes(text, body).items() if any(
                re.fullmatch(regex, text[begun:] + token + rest)
                for rest in (COMPLETIONS if token else ('',)))}
            following = {token: p / sum(following.values()) for token, p in following.items()}
            best = max(following, key=following.__getitem__)
            if not best:
                break
            listed = [{'token': t, 'logprob': math.log(p) if p > 0 else -9999.0} for t, p in
                      sorted(following.items(), key=lambda item: -item[1])[:20]]
            tokens.append({'token': best, 'logprob': math.log(following[best]),
                           'top_logprobs': listed})
            text += best
        return tokens

    def _text(self, body: dict, honoured: set[str], begun: str) -> str:
        question = ' '.join(part['text'] for message in body['messages'] for part in (
            message['content'] if isinstance(message['content'], list) else [
                {'type': 'text', 'text': message['content']}]) if part['type'] == 'text')
        asked = re.search(r'\[([\d.]+), ([\d.]+)\]', question)
        x, y = self.behaviour.answer(*(asked.groups() if asked else ('42', '7')))
        regex = next((body[name]['regex'] if name == 'structured_outputs' else body[name]
                      for name in ('structured_outputs', 'regex', 'guided_regex')
                      if name in honoured), '')
        if 'grammar' in honoured:
            regex = compile_grammar(body['grammar'])
        schema = body['response_format']['json_schema']['schema'] \
            if 'response_format' in honoured else body.get('format')
        if schema:
            return '{"q": "Q"}' if 'q' in schema['properties'] else f'{{"point_2d": [{x}, {y}]}}'
        free = self.behaviour.free(x, y)
        if begun:
            free = free.removeprefix(begun) if free.startswith(begun) else f'{x}, {y}]'
        candidates = (free, f'{x}, {y}]', f'{BEFORE}{x}, {y}]', '42-Q', '0.001, 0.001]')
        return next(w[:n] for w in candidates for n in range(len(w), -1, -1)
                    if not regex or re.fullmatch(regex, w[:n]))

    def _prompt_tokens(self, body: dict, continued: bool) -> int:
        count = 14 if continued else 20
        for message in body['messages']:
            parts = message['content'] if isinstance(message['content'], list) else []
            for part in parts:
                count += self._image_tokens(part) if part['type'] == 'image_url' else 10
        return count

    def _image_tokens(self, part: dict) -> int:
        known, url = self.server.owner.image_tokens, part['image_url']['url']
        if url not in known:
            data = np.frombuffer(base64.b64decode(url.partition(',')[2]), np.uint8)
            height, width = cv2.imdecode(data, cv2.IMREAD_COLOR).shape[:2]
            known[url] = width * height // 784
        return known[url]

    def _token(self, text: str) -> dict:
        sure = self.behaviour.sure
        others = {d: (1 - sure) / 9 if text.isdigit() else 0.0 for d in '0123456789' if d != text}
        probabilities = {text: sure if text.isdigit() else 1.0, **others}
        listed = [{'token': t, 'logprob': math.log(p) if p else -9999.0}
                  for t, p in probabilities.items()]
        return {'token': text, 'logprob': listed[0]['logprob'], 'top_logprobs': listed}

    # --- what can go wrong

    def _silent(self) -> None:
        self.server.owner.stopped.wait(60)

    def _reset(self) -> None:
        """Reset the connection without a byte, as when the server is killed."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.connection.close()
        self.close_connection = True

    def _cut(self) -> None:
        """Close the connection in the middle of a reply."""
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n'
                         b'Content-Length: 1000\r\n\r\n{"choices": [')
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _trickle(self, data: bytes) -> None:
        for byte in data:
            if self.server.owner.stopped.wait(STEP_S):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def _trickled_header(self) -> None:
        self._trickle(b'HTTP/1.1 200 OK\r\nX-Slow: ' + 10000 * b'a')

    def _trickled_body(self) -> None:
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n')
        self._trickle(10000 * b' ')

    def _endless(self) -> None:
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n')
        while not self.server.owner.stopped.is_set():
            self.wfile.write(bytes(1 << 16))

    def _no_http(self) -> None:
        self.wfile.write(b'SSH-2.0-OpenSSH_9.2\r\n')
        self.close_connection = True

    def _page(self) -> None:
        self._reply(200, PAGE, 'text/html')

    def _bad_gateway(self) -> None:
        self._reply(502, b'<html><title>502 Bad Gateway</title></html>', 'text/html')

    def _twice(self) -> None:
        """Answer twice on one connection, as a broken proxy does; the second time (1, 1)."""
        for text in (f'{BEFORE}42, 7]', f'{BEFORE}1, 1]'):
            self._reply(200, {'choices': [{'message': {'content': text}}]})

    def _nginx_413(self) -> None:
        self._reply(413, b'<html><title>413 Request Entity Too Large</title></html>', 'text/html')

    def _nginx_429(self) -> None:
        self._reply(429, b'<html><title>429 Too Many Requests</title></html>', 'text/html')

    def _redirect(self) -> None:
        self.send_response(302)
        self.send_header('Location', self.behaviour.location)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def _no_json(self) -> None:
        self._reply(200, b'{"choices": [')

    def _echoed(self) -> None:
        self._reply(200, self.behaviour.echo)

    def _raw(self) -> None:
        self.wfile.write(self.behaviour.echo)
        self.close_connection = True

    def _nested(self) -> None:
        self._reply(200, 200_000 * b'[')

    def _nested_error(self) -> None:
        self._reply(400, 200_000 * b'[')

    def _no_utf8(self) -> None:
        self._reply(200, b'{"choices": "\xff\xfe"}')

    def _nothing(self) -> None:
        self._reply(200, b'')

    def _wordy(self) -> None:
        self._reply(200, {'choices': [{'message': {'content': 300_000 * '[1, '}}]})

    def _half_chunked(self) -> None:
        """Close the connection in the middle of a reply of unknown length."""
        self._chunked(b'100\r\n{"choices": [')

    def _bad_chunks(self) -> None:
        self._chunked(b'zz\r\n{"choices": [\r\n')

    def _chunked(self, chunk: bytes) -> None:
        self.wfile.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n' + chunk)
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _bomb(self) -> None:
        """Send 20 kB that decompress to 20 MB."""
        packer = zlib.compressobj(1, wbits=31)
        data = b''.join(packer.compress(bytes(1 << 20)) for _ in range(20)) + packer.flush()
        self.send_response(200)
        self.send_header('Content-Encoding', 'gzip')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _put_off(self) -> None:
        """Announce a reply again and again, and never send it."""
        while not self.server.owner.stopped.is_set():
            self.wfile.write(b'HTTP/1.1 102 Processing\r\n\r\n')

    def _header_flood(self) -> None:
        self.wfile.write(b'HTTP/1.1 200 OK\r\n')
        while not self.server.owner.stopped.is_set():
            self.wfile.write(b'X-More: ' + 1000 * b'a' + b'\r\n')

    def _busy(self) -> None:
        self.send_response(429)
        self.send_header('Retry-After', self.behaviour.retry_after)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def _no_choices(self) -> None:
        self._reply(200, {'choices': []})

    def _a_list(self) -> None:
        self._reply(200, b'[1, 2]')

    def _no_text(self) -> None:
        self._reply(200, {'choices': [{'message': {'content': None}}]})

    def _reply_logprobs(self, logprobs: object) -> None:
        self._reply(200, {'choices': [{'message': {'content': '1'}, 'logprobs': logprobs}]})

    def _not_a_number(self) -> None:
        self._reply_logprobs({'content': [{'token': '1', 'logprob': math.nan, 'top_logprobs': []}]})

    def _above_one(self) -> None:
        self._reply_logprobs({'content': [{'token': '1', 'logprob': 800.0, 'top_logprobs': []}]})

    def _far_above_one(self) -> None:
        self._reply_logprobs({'content': [{'token': '1', 'logprob': 10 ** 400,
                                           'top_logprobs': []}]})

    def _true(self) -> None:
        self._reply_logprobs({'content': [{'token': '1', 'logprob': True, 'top_logprobs': []}]})

    def _no_token(self) -> None:
        self._reply_logprobs({'content': [{'token': 1, 'logprob': -1.0}]})

    def _tokens_of_old(self) -> None:
        """In the format of the legacy completions API."""
        self._reply_logprobs({'tokens': ['1'], 'token_logprobs': [-0.1], 'content': None})
