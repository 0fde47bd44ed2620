from __future__ import annotations

import pytest
from tests.report.growing import record

from layerscope.errors import LayerscopeError
from layerscope.report.publish import write_report


def test_a_report_is_made_of_a_run_or_its_folder(tmp_path):
    run = record(tmp_path / "a", steps_per_epoch=2)
    pages = [
        write_report(given, tmp_path / f"{i}.html").read_text("utf-8")
        for i, given in enumerate((run, run.path, str(run.path), [run.path]))
    ]
    assert len(set(pages)) == 1
    for nothing, message in (([], "no run to report"), (tmp_path / "b", "b")):
        with pytest.raises(LayerscopeError, match=message):
            write_report(nothing, tmp_path / "none.html")
