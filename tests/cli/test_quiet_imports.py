from mmfasternet.cli.quiet_imports import quiet_imports


def test_only_remarks_on_missing_packages_are_left_out(capsys):
    with quiet_imports():
        print('Could not import OneDL. Skipping OneDL datasets.')
        print('something else')
    print('after')
    assert capsys.readouterr().out == 'something else\nafter\n'


def test_what_was_printed_is_there_also_after_an_error(capsys):
    try:
        with quiet_imports():
            print('before')
            raise ImportError('gone')
    except ImportError:
        pass
    assert capsys.readouterr().out == 'before\n'
