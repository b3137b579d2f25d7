from dataclasses import replace

import pytest
import torch

from mmfasternet.benchmark.harness.records import LatencyRecord, read_records
from mmfasternet.benchmark.harness.suite import Entry, Subject, run_suite
from mmfasternet.benchmark.paper import TABLE_9
from mmfasternet.benchmark.subjects import exported_forms, partial_conv
from mmfasternet.benchmark.subjects.forms import form_report
from mmfasternet.benchmark.subjects.partial_conv import (
    FORMS,
    YARDSTICK,
    Backbone,
    SlicingPartialConv,
    algorithm_entries,
    backbone_form_entries,
    partial_conv_entries,
    partial_conv_report,
)
from mmfasternet.benchmark.subjects.published_blocks import CloneSlicingBlock, InPlaceSlicingBlock
from mmfasternet.deploy.deployed_block import ALGORITHMS
from mmfasternet.deploy.export.runtimes import OpenVinoModel
from mmfasternet.errors import UserError
from mmfasternet.models import FasterNet, FasterNetBlock, PartialConv
from tests.conftest import randomize_norms

CPU = torch.device('cpu')
ARCH = dict(embed_channels=16, depths=(1, 2))


@pytest.fixture(scope='module')
def backbone():
    torch.manual_seed(0)
    model = FasterNet(ARCH, out_indices=(0, 1)).eval()
    randomize_norms(model)
    return Backbone('tiny', lambda: model, CPU, (32, 48), 2, FORMS)


@pytest.fixture(scope='module')
def records(backbone):
    return run_suite(backbone_form_entries(backbone, compile=False), CPU, rounds=2)


@pytest.mark.slow
def test_every_form_is_there_with_its_difference_and_its_conditions(records):
    forms = [record.conditions.form for record in records]
    assert forms[:4] == [
        'split_cat, folded norms', 'split_cat, as trained', 'clone and slice', 'slice in place (wrong)']
    assert {'matmul', 'linear', 'conv', 'ONNX Runtime', 'OpenVINO'} <= set(forms)
    rows = form_report(records).tables[0].rows
    assert rows[0]['form'] == 'split_cat, folded norms' and rows[0]['ratio'] == 1
    assert [row['form'] for row in rows[-2:]] == [YARDSTICK] * 2 and [row['dtype'] for row in rows[-2:]] == [
        'float32', 'bfloat16']
    for record, row in zip(records, rows):
        if record.model == YARDSTICK:
            assert record.difference is None and row['ratio'] is None
        else:
            if record.conditions.form == 'slice in place (wrong)':
                assert record.difference > 0.05
            else:
                assert record.difference < (1e-5 if record.conditions.dtype == torch.float32 else 5e-2)
            assert row['ratio'] == records[0].median_ms / record.median_ms
            assert record.conditions.batch_size == 2 and record.conditions.input_size == '32x48'
        assert record.runs == 2 and record.gflops > 0 and record.error is None
    versions = records[-1].conditions.versions
    assert versions['onnxruntime'] and versions['openvino']
    assert ('OpenVINO', torch.bfloat16) in {(r.conditions.form, r.conditions.dtype) for r in records} or (
        not OpenVinoModel.knows(torch.bfloat16))


@pytest.mark.slow
def test_gflops_are_twice_the_multiply_adds_over_the_time(records):
    first, yardstick = records[0], records[-1]
    # 2 images of 32 x 48: embedding, one block of 16 channels at 8 x 12, merging, two of 32 at 4 x 6
    block = lambda c: 9 * (c // 4)**2 + 2 * c * 2 * c  # noqa: E731
    adds = 2 * (96 * (48 * 16 + block(16)) + 24 * (64 * 32 + 2 * block(32)))
    assert first.gflops == pytest.approx(2 * adds / first.median_ms / 1e6)
    assert yardstick.gflops == pytest.approx(2 * 256**2 * 9 * 56**2 / yardstick.median_ms / 1e6)


@pytest.mark.slow
def test_report_of_forms_is_written(records, tmp_path):
    report = form_report(records)
    assert report.title == 'Forms of tiny' and 'batch 2, 32x48 pixels' in report.notes[0]
    assert {path.name for path in report.write(tmp_path)} == {'report.md', 'report.html', 'forms.csv', 'latency.png'}


@pytest.mark.slow
def test_a_form_that_fails_is_named_and_the_others_go_on(backbone, monkeypatch, tmp_path):
    def fails(model, folder, file_format, *others, **options):
        raise UserError(f'{file_format} is not installed')

    monkeypatch.setattr(backbone, '_exports', exported_forms.Exports(backbone.build(), []))  # not those of other tests
    monkeypatch.setattr(exported_forms, 'export_model', fails)
    original = partial_conv.to_deploy

    def to_deploy(model, algorithm, **options):
        if algorithm == 'matmul':
            raise RuntimeError('no such operator\nMore.')
        return original(model, algorithm=algorithm, **options)

    monkeypatch.setattr(partial_conv, 'to_deploy', to_deploy)
    entries = backbone_form_entries(backbone, [torch.float32], compile=False)
    records = run_suite(entries, CPU, rounds=1, out=tmp_path)
    failed = {record.name: record.error for record in records if record.error}
    assert failed == {'matmul, NCHW, float32': 'no such operator', 'matmul, NHWC, float32': 'no such operator',
                      'ONNX Runtime, NCHW, float32': 'onnx is not installed',
                      'OpenVINO, NHWC, float32': 'openvino is not installed'}
    assert sum(record.runs == 1 for record in records) == len(records) - 4 > 4
    report = form_report(records)
    assert 'matmul, NCHW, float32 was not measured: no such operator' in report.notes
    assert report.write(tmp_path)
    monkeypatch.undo()
    records = run_suite(entries, CPU, rounds=1, out=tmp_path)  # the cause is gone
    assert not any(record.error for record in records) and read_records(tmp_path) == records


@pytest.mark.slow
def test_forms_go_on_where_they_were(backbone, tmp_path):
    entries = backbone_form_entries(backbone, [torch.float32], compile=False)[:5]

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match='to continue'):
        run_suite([*entries, Entry('last', entries[0].conditions, lambda: Subject(interrupt))], CPU, 2, out=tmp_path)
    assert read_records(tmp_path) == []  # it came before the first round
    first = run_suite(entries, CPU, rounds=1, out=tmp_path)
    second = run_suite(entries, CPU, rounds=2, out=tmp_path)
    assert all(after.times_ms[:1] == before.times_ms and after.runs == 2 and after.difference == before.difference
               for before, after in zip(first, second))
    built = [replace(entry, build=lambda: pytest.fail('built')) for entry in entries]
    assert run_suite(built, CPU, rounds=2, out=tmp_path) == second
    other = Backbone('tiny', backbone.build, CPU, (32, 32), 2, FORMS)
    with pytest.raises(UserError, match='other conditions'):
        run_suite([replace(entry, build=lambda: pytest.fail('built'))
                   for entry in backbone_form_entries(other, [torch.float32], compile=False)], CPU, 2, out=tmp_path)


def test_compiled_forms_say_so(backbone):
    entries = backbone_form_entries(backbone, [torch.float32])
    assert [(e.name, e.conditions.form) for e in entries if e.conditions.compiled] == [
        ('conv, compile, NHWC, float32', 'conv'), ('linear, compile, NHWC, float32', 'linear')]


def test_algorithms_of_a_backbone_agree():
    entries = algorithm_entries('t0', CPU, (64, 64), 1, [torch.float32])
    assert [entry.conditions.algorithm for entry in entries] == ['conv', *ALGORITHMS]
    assert all(entry.build().difference < 1e-5 for entry in entries)


def test_the_published_fast_form_is_wrong_and_the_corrected_one_right():
    block = FasterNetBlock(16, dict(type='BN'), dict(type='ReLU', inplace=True)).eval().requires_grad_(False)
    x = torch.randn(1, 16, 6, 6)
    expected = block(x)
    torch.testing.assert_close(CloneSlicingBlock(block)(x.clone()), expected)
    assert (InPlaceSlicingBlock(block)(x.clone()) - expected).abs().max() > 0.1


def test_only_the_published_form_overwrites_its_input():
    torch.manual_seed(0)
    layers, x = [PartialConv(16).eval() for _ in range(3)], torch.randn(2, 16, 5, 5)
    with torch.no_grad():
        expected = torch.nn.Sequential(*layers)(x)
        for copies, spared in (('none', False), ('all', True), ('first', True)):
            given = x.clone()
            torch.testing.assert_close(SlicingPartialConv(layers, copies)(given), expected)
            assert torch.equal(given, x) == spared


def test_report_of_table_9():
    records = [LatencyRecord(entry.name, entry.conditions.on(CPU), entry.kind, entry.model, (2., ))
               for entry in partial_conv_entries(CPU)]
    report = partial_conv_report(records)
    assert [row['network'] for row in report.tables[0].rows] == list(TABLE_9)
    assert report.tables[0].rows[0]['ours / split_cat'] == 1
    assert report.tables[0].rows[-1]['split_cat channels-last (ms)'] == 2
    algorithm, = {record.conditions.algorithm for record in records
                  if record.conditions.form == 'ours' and record.model == 'FasterNet-T0'}
    assert f"ours is the algorithm '{algorithm}'" in report.notes[0]


def test_forms_of_a_backbone_agree_but_the_published_one():
    subjects = {entry.name: entry.build() for entry in partial_conv_entries(CPU) if 'T0' in entry.name}
    with torch.no_grad():
        outputs = {name.rpartition(', ')[2]: subject.function()[0] for name, subject in subjects.items()}
    scale = outputs['split_cat'].abs().max()
    for form in ('clone', 'ours'):
        torch.testing.assert_close(outputs[form], outputs['split_cat'], rtol=1e-4, atol=1e-5 * scale)
    assert (outputs['slicing'] - outputs['split_cat']).abs().max() > 1e-2 * scale
