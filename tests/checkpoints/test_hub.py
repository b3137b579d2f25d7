"""Checkpoints on Hugging Face's Hub, of which a small server on this machine plays the part."""

import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import timm
import torch
from safetensors.torch import save

from mmfasternet.checkpoints import read_checkpoint
from mmfasternet.checkpoints.contents import state_dict_of
from mmfasternet.errors import CheckpointError, UserError
from mmfasternet.models import FasterNet
from tests.checkpoints.hostile import hostile_file
from tests.conftest import ROOT, randomize_norms

TIMMS = 'timm/fasternet_t0.in1k'


def commit_of(revision):
    return revision if len(revision) == 40 else hashlib.sha1(revision.encode()).hexdigest()


class Hub:
    """Serves files as the Hub does: by repository, revision and name, with what its client wants to know of them."""

    def __init__(self, home):
        self.home, self.requests, self.files, self.refusals = home, [], {}, {}
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                hub.requests.append((self.command, self.path))
                repo, _, rest = self.path[1:].partition('/resolve/')
                revision, _, name = rest.partition('/')
                revisions = hub.files.get(repo)
                status, code, content = hub.refusals.get(repo), None, b''
                if status and self.headers.get('Authorization') != 'Bearer secret':
                    status, code = status
                elif revisions is None:
                    status, code = 401, 'RepoNotFound'  # as to whoever shows no token
                else:
                    found = {commit_of(each): each for each in revisions}
                    revision = found.get(revision, revision)
                    if revision not in revisions:
                        status, code = 404, 'RevisionNotFound'
                    elif name not in revisions[revision]:
                        status, code = 404, 'EntryNotFound'
                    else:
                        status, content = 200, revisions[revision][name]
                self.send_response(status)
                if code:
                    self.send_header('X-Error-Code', code)
                if status in (200, 404) and revision in (revisions or {}):
                    self.send_header('X-Repo-Commit', commit_of(revision))
                    self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                if self.command == 'GET':
                    self.wfile.write(content)

            do_GET = do_HEAD

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.endpoint = f'http://127.0.0.1:{self.server.server_address[1]}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def fetched(self):
        """Paths of the files that were sent; the client asks for others than files, too."""
        return [path for method, path in self.requests if method == 'GET' and '/resolve/' in path]

    def variables(self, **others):
        """The environment of its users."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(('HF_', 'HUGGING'))}
        return dict(kept, HF_ENDPOINT=self.endpoint, HF_HOME=str(self.home), **others)

    def read(self, *paths, **variables):
        """The number that the checkpoint behind each path holds, or the error."""
        found = []
        with new_client(self.variables(**variables)):
            for path in paths:
                try:
                    content = read_checkpoint(path)
                    found.append(state_dict_of(content, path)['weight'].item())
                except CheckpointError as error:
                    found.append(str(error))
        return found


@contextmanager
def new_client(variables):
    """The Hub's client as a new process imports it: it reads its variables only then. It does not wait to try again."""

    def modules():
        return [name for name in sys.modules if name.split('.')[0] == 'huggingface_hub']

    before = {name: sys.modules.pop(name) for name in modules()}
    with patch.dict(os.environ, variables, clear=True), patch('time.sleep'):
        try:
            yield
        finally:
            for name in modules():
                del sys.modules[name]
            sys.modules.update(before)


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path / 'hf')
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def pickled(value):
    file = io.BytesIO()
    torch.save(dict(weight=torch.tensor([float(value)])), file)
    return file.getvalue()


def safe(value):
    return save(dict(weight=torch.tensor([float(value)])))


def test_names_files_and_revisions(hub, monkeypatch):
    logged = []
    monkeypatch.setattr('mmfasternet.checkpoints.hub.print_log', lambda text, **options: logged.append(text))
    named = 'a/b%20c.pth'  # as the client asks for it
    hub.files = {
        'org/both': {'main': {'model.safetensors': safe(1), 'pytorch_model.bin': pickled(2), named: pickled(3)},
                     'v2': {'model.safetensors': safe(4), named: pickled(5)},
                     'refs%2Fpr%2F1': {named: pickled(6)}},
        'org/bin': {'main': {'pytorch_model.bin': pickled(7)}},
    }
    commit = commit_of('v2')
    paths = ('hf-hub:org/both', 'hf-hub:org/bin', 'hf-hub:org/both@v2', f'hf-hub:org/both@{commit}',
             'hf://org/both/a/b c.pth', 'hf://org/both@v2/a/b%20c.pth', 'hf://org/both@refs/pr/1/a/b c.pth',
             'hf://org/both@refs%2Fpr%2F1/a/b c.pth')
    assert hub.read(*paths) == [1, 7, 4, 4, 3, 5, 6, 6]
    assert f'hf-hub:org/both@v2 is model.safetensors of commit {commit}' in logged
    assert f'hf-hub:org/bin is pytorch_model.bin of commit {commit_of("main")}' in logged
    assert len(hub.fetched()) == len(set(hub.fetched())) == 6
    # By another process, and without a network, they come from the cache.
    hub.requests.clear()
    for variables in ({}, dict(HF_HUB_OFFLINE='1')):
        assert hub.read(*paths, **variables) == [1, 7, 4, 4, 3, 5, 6, 6]
    assert not [path for _, path in hub.requests if '/resolve/' in path]


def test_what_cannot_be_had_is_one_line(hub):
    hub.files = {'org/some': {'main': {'config.json': b'{}'}}}
    hub.refusals = {'org/gated': (403, 'GatedRepo'), 'org/closed': (403, None), 'org/down': (503, None)}
    files = f'{hub.endpoint}/org/some/tree/main'
    cases = {
        'hf-hub:org/none': ("has no org/none, or it is private. Check the name", 'HF_TOKEN'),
        'hf-hub:org/some': ('org/some has no model.safetensors or pytorch_model.bin', files),
        'hf://org/some/weights.pth': ('org/some has no weights.pth', files),
        'hf-hub:org/some@v9': ("org/some has no revision 'v9'", files),
        'hf-hub:org/gated': ('org/gated is gated. Request access on', 'HF_TOKEN'),
        'hf-hub:org/closed': ('refuses model.safetensors or pytorch_model.bin of org/closed (403)', 'TOKEN'),
        'hf-hub:org/down': ("can't be downloaded: model.safetensors or pytorch_model.bin of org/down", '503'),
        'hf-hub:org/some/more': ('does not name a repository on the Hub', 'Write hf-hub:ORG/REPO'),
    }
    for (path, parts), error in zip(cases.items(), hub.read(*cases), strict=True):
        assert isinstance(error, str) and error.startswith(f"checkpoint '{path}' ") and '\n' not in error
        for part in parts:
            assert part in error, error


def test_a_token_opens_what_is_private(hub):
    hub.files = {'org/own': {'main': {'model.safetensors': safe(1)}}}
    hub.refusals = {'org/own': (401, 'RepoNotFound')}
    assert 'or it is private' in hub.read('hf-hub:org/own')[0]
    assert hub.read('hf-hub:org/own', HF_TOKEN='secret') == [1]


def test_without_a_network(hub):
    hub.files = {'org/a': {'main': {'pytorch_model.bin': pickled(1)}}}
    assert hub.read('hf://org/a/pytorch_model.bin') == [1]
    cached, absent = hub.read('hf-hub:org/a', 'hf-hub:org/b', HF_HUB_OFFLINE='1')
    assert cached == 1  # nobody has asked for its .safetensors yet
    assert 'HF_HUB_OFFLINE prevents downloading model.safetensors or pytorch_model.bin of org/b' in absent
    assert str(hub.home / 'hub') in absent
    hub.server.shutdown()
    hub.server.server_close()
    cached, absent = hub.read('hf-hub:org/a', 'hf://org/b/c.pth')
    assert cached == 1
    assert absent.startswith(f"checkpoint 'hf://org/b/c.pth' can't be downloaded: c.pth of org/b from {hub.endpoint} (")
    assert 'refused' in absent and absent.endswith('Download it elsewhere and give the path of the file')


def test_a_cache_that_cannot_be_written_is_not_taken_for_the_hub(hub):
    hub.files = {'org/a': {'main': {'pytorch_model.bin': pickled(1)}}}
    hub.home.touch()
    said, = hub.read('hf://org/a/pytorch_model.bin')
    assert re.match(rf"checkpoint 'hf://org/a/pytorch_model\.bin' can't be downloaded: '{hub.home}/\S+' can't be read "
                    rf"or written: '{hub.home}' is not a folder\. Set HF_HOME to another folder$", said), said


def test_code_in_a_pickle_is_refused(hub, tmp_path):
    hub.files = {'org/evil': {'main': {'pytorch_model.bin': hostile_file(tmp_path, 'in meta').read_bytes()}}}
    error, = hub.read('hf-hub:org/evil')
    assert 'pytorch_model.bin' in error and 'system, which is more than plain data, and was not loaded' in error
    assert not (tmp_path / 'ran').exists()
    assert len(hub.fetched()) == 1


@pytest.mark.slow
def test_timms_weights_compute_what_timm_computes_by_every_loader(hub, tmp_path):
    theirs = timm.create_model('fasternet_t0').eval()
    randomize_norms(theirs)
    hub.files = {TIMMS: {'main': {'model.safetensors': save(theirs.state_dict())}}}
    images = torch.randn(1, 3, 64, 64)
    torch.save(images, tmp_path / 'images')
    name = f'hf-hub:{TIMMS}'
    code = f"""
import torch
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from mmfasternet.checkpoints import convert_checkpoint
from mmfasternet.engine.building import build_model
from mmfasternet.engine.config import load_config
images = torch.load({str(tmp_path / 'images')!r})
cfg = load_config('configs/fasternet_t0_in1k.py')
ours = build_model(cfg, {name!r})
outside = build_model(cfg)
load_checkpoint(outside, {name!r}, strict=True)   # MMEngine's own, as MMDetection's tools call it
backbone = MODELS.build(dict(type='mmfasternet.FasterNet', arch='t0', out_norm=False,
                             init_cfg=dict(type='Pretrained', checkpoint={name!r})))
backbone.init_weights()
convert_checkpoint('hf://{TIMMS}/model.safetensors', {str(tmp_path / 'converted.pth')!r})
converted = build_model(cfg, {str(tmp_path / 'converted.pth')!r})
with torch.no_grad():
    torch.save(dict(scores=[model(images) for model in (ours, outside, converted)], maps=backbone.eval()(images)),
               {str(tmp_path / 'outputs')!r})
"""
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, env=hub.variables())
    assert result.returncode == 0, result.stderr
    outputs = torch.load(tmp_path / 'outputs')
    with torch.no_grad():
        scores, maps = theirs(images), theirs.forward_intermediates(images, intermediates_only=True)
    for each in outputs['scores']:
        torch.testing.assert_close(each, scores, rtol=1e-4, atol=1e-5)
    for found, expected in zip(outputs['maps'], maps, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(hub.fetched()) == 1


def test_timms_names_are_those_on_the_page():
    names = {timm.get_pretrained_cfg(f'fasternet_{arch}').hf_hub_id for arch in FasterNet.arch_settings}
    pattern = re.search(r'`(timm/fasternet_)\{(.*?)\}(\.in1k)`', (ROOT / 'docs' / 'checkpoints.md').read_text())
    assert names == {pattern[1] + arch.strip() + pattern[3] for arch in pattern[2].split(',')} and len(names) == 6


@pytest.mark.parametrize('path', ['hf-hub:', 'hf-hub:@v1', 'hf://org', 'hf://org/repo', 'hf://org/repo/',
                                  'hf://datasets/org/repo/a.pth', 'hf://org/repo@v1'])
def test_a_name_of_nothing(path):
    with pytest.raises(CheckpointError, match='does not name a model file on the Hub. Write hf-hub:ORG/REPO, or hf://'):
        read_checkpoint(path)


def test_it_needs_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    line = r'^huggingface_hub is not installed: pip install "mmfasternet\[hub\]" installs it$'
    with pytest.raises(UserError, match=line):
        read_checkpoint('hf-hub:org/repo')


def test_a_client_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub.errors', None)
    with pytest.raises(UserError, match=r'^huggingface_hub [\d.]+ is too old for .*"huggingface_hub>=0\.26"'):
        read_checkpoint('hf-hub:org/repo')


@pytest.mark.slow
def test_the_tools_take_such_names(monkeypatch, tmp_path, trained, shapes, run_tool):
    """Where a training starts, where one is tested, predicts and is measured: each hands the name over as it is."""
    import huggingface_hub
    asked = []

    def download(repo, name, revision=None):
        asked.append((repo, name, revision))
        return str(trained / 'epoch_2.pth')

    monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda *args, **options: None)
    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
    config, out = next(trained.glob('*.py')), tmp_path / 'out'
    timms, fsspecs = 'hf-hub:org/repo', 'hf://org/repo@v1/dir/a.pth'
    for name, args in (
            (timms, ('test', config, timms)),
            (fsspecs, ('image_demo', shapes / 'val', config, fsspecs, '--out-dir', out)),
            (timms, ('publish_model', timms, tmp_path / 'a.pth')),
            (fsspecs, ('benchmark_detector', config, '--checkpoint', fsspecs, '--size', 64, 64, '--runs', 1)),
            (timms, ('train', config, '--work-dir', out / 'a', '--cfg-options', f'load_from={timms}',
                     f'model.backbone.init_cfg.checkpoint={timms}', 'model.backbone.init_cfg.type=Pretrained')),
            (fsspecs, ('train', config, '--work-dir', out / 'b', '--resume', fsspecs))):
        asked.clear()
        result = run_tool(*args)
        assert result.code == 0, (args, result.err)
        wanted = ('org/repo', 'model.safetensors', None) if name == timms else ('org/repo', 'dir/a.pth', 'v1')
        assert set(asked) == {wanted}, args
