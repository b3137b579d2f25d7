import http.server
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from mmengine.runner import load_checkpoint
from safetensors.torch import save_file

from mmfasternet.checkpoints import download, load_for_mmengine, read_checkpoint, safe_loading
from mmfasternet.errors import CheckpointError
from mmfasternet.models import FasterNet


def test_a_url_is_fetched_once_and_kept(web_server, tmp_path):
    address, requests = web_server
    weights = FasterNet('t0', out_norm=False).state_dict()
    torch.save(weights, tmp_path / 'site' / 'weights.pth')
    for _ in range(2):
        content = load_for_mmengine(f'{address}/weights.pth?raw=true')
        assert len(content['state_dict']) == len(weights)
    assert len(requests) == 1
    assert (tmp_path / 'hub' / 'checkpoints' / 'weights.pth').is_file()


def test_many_ask_for_it_and_it_is_fetched_once(web_server, tmp_path):
    address, requests = web_server
    (tmp_path / 'site' / 'file.pth').write_bytes(b'x' * 10**6)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(download.download, [f'{address}/file.pth'] * 4))
    assert len(set(paths)) == 1 and len(requests) == 1


def test_a_web_page_in_its_place_is_named_with_its_local_copy(web_server, tmp_path):
    address, _ = web_server
    (tmp_path / 'site' / 'page.pth').write_text('<!DOCTYPE html><html>Sign in</html>')
    with pytest.raises(CheckpointError, match=r'hub/checkpoints/page\.pth.*web page.*Remove it'):
        read_checkpoint(f'{address}/page.pth')


def test_files_of_the_same_name_are_kept_apart(web_server, tmp_path):
    address, requests = web_server
    for name, arch in (('a', 't0'), ('b', 't1')):
        (tmp_path / 'site' / name).mkdir()
        save_file(FasterNet(arch).state_dict(), tmp_path / 'site' / name / 'model.safetensors')
    for _ in range(2):
        for name, channels in (('a', 40), ('b', 64)):
            weights = load_for_mmengine(f'{address}/{name}/model.safetensors')['state_dict']
            assert weights['backbone.norm0.weight'].shape == (channels, )
    assert len(requests) == 2


def test_files_of_the_same_name_that_are_fetched_at_once_are_kept_apart(web_server, tmp_path):
    address, requests = web_server
    for name in 'abcd':
        (tmp_path / 'site' / name).mkdir()
        (tmp_path / 'site' / name / 'file.pth').write_bytes(name.encode() * 10**6)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(download.download, [f'{address}/{name}/file.pth' for name in 'abcd']))
    assert [path.read_bytes()[:1] for path in paths] == [b'a', b'b', b'c', b'd'] and len(requests) == 4


def test_a_file_has_its_address_before_its_name(web_server, tmp_path, monkeypatch):
    """Whoever is killed in between does not leave it to another address."""
    address, _ = web_server
    for name in 'ab':
        (tmp_path / 'site' / name).mkdir()
        (tmp_path / 'site' / name / 'file.pth').write_bytes(name.encode())
    write = Path.write_text

    def killed(self, *args):
        write(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, 'write_text', killed)
        download.download(f'{address}/a/file.pth')
    assert download.download(f'{address}/b/file.pth').read_bytes() == b'b'
    assert download.download(f'{address}/a/file.pth').read_bytes() == b'a'


def test_a_file_that_was_put_there_is_taken(web_server, tmp_path):
    address, requests = web_server
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    torch.save(FasterNet('t0').state_dict(), tmp_path / 'hub' / 'checkpoints' / 'weights.pth')
    load_for_mmengine(f'{address}/weights.pth')
    assert not requests


def test_a_file_that_comes_in_part_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))

    class Half(http.server.BaseHTTPRequestHandler):

        def do_GET(self):
            self.send_response(200)
            self.send_header('Content-Length', '1000')
            self.end_headers()
            self.wfile.write(b'x' * 500)

    with http.server.HTTPServer(('127.0.0.1', 0), Half) as running:
        threading.Thread(target=running.handle_request, daemon=True).start()
        with pytest.raises(CheckpointError, match=r'half\.pth could not be downloaded.*after 500 of 1000 bytes'):
            read_checkpoint(f'http://127.0.0.1:{running.server_address[1]}/half.pth')
    assert {path.suffix for path in (tmp_path / 'hub' / 'checkpoints').iterdir()} <= {'.lock'}


def test_other_schemes(tmp_path, monkeypatch):
    torch.save(dict(weight=torch.zeros(1, 1)), tmp_path / 'a b.pth')
    assert read_checkpoint(f'file://{tmp_path}/a%20b.pth')['weight'].item() == 0
    with safe_loading():
        model = torch.nn.Linear(1, 1)
        load_checkpoint(model, f'FILE://{tmp_path}/a%20b.pth')
        assert model.weight.item() == 0
    for path, problem in (('s3://bucket/a.pth', 's3:// is not supported'),
                          ('torchvision://nonet', "does not know 'nonet'"),
                          ('http://[::1/x.pth', 'does not name a file'),
                          ('https://example.org/..', 'does not name a file'),
                          ('https://example.org', 'does not name a file')):
        with pytest.raises(CheckpointError, match=re.escape(problem)):
            read_checkpoint(path)
    asked = []
    monkeypatch.setattr(download, 'download', lambda url: asked.append(url) or tmp_path / 'a b.pth')
    read_checkpoint('torchvision://resnet50')
    read_checkpoint('open-mmlab://resnext101_64x4d')
    assert 'pytorch.org' in asked[0] and 'resnext101_64x4d' in asked[1]


@pytest.mark.parametrize('path', ['/absent.pth', ':1/weights.pth'])
def test_what_cannot_be_had_is_named_with_address_and_place(web_server, tmp_path, path):
    address, _ = web_server
    url = address + path if path.startswith('/') else 'http://127.0.0.1' + path
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(url)
    for part in (f'{path.split("/")[-1]} could not be downloaded', url, f'{tmp_path}/hub/checkpoints/', 'init_cfg'):
        assert part in str(caught.value)
    assert not list((tmp_path / 'hub').rglob('*.pth'))


def test_a_folder_that_cannot_be_written_is_not_taken_for_the_network(web_server, tmp_path):
    address, requests = web_server
    (tmp_path / 'hub').touch()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(f'{address}/weights.pth')
    assert str(caught.value) == (f"checkpoint '{address}/weights.pth': '{tmp_path}/hub/checkpoints' can't be written: "
                                 f"'{tmp_path}/hub' is not a folder. Set TORCH_HOME to another folder")
    assert not requests
