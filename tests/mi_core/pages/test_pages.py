import sys

import pytest

from mi_core.pages import framed, render, write
from mi_core.pages.terminal import visible


def test_another_package_brings_its_own_template(tmp_path, monkeypatch):
    package = tmp_path / "greeting_pages"
    (package / "pages").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    template = '{% extends "mi_core/page.html" %}{% block content %}hello {{ name }} {{ name | visible }}{% endblock %}'
    (package / "pages" / "hello.html").write_text(template)
    monkeypatch.syspath_prepend(tmp_path)
    page = render("greeting_pages/hello.html", title="<t>", name="<b> x")
    assert "hello &lt;b&gt; x &lt;b&gt;·x" in page
    assert "<title>&lt;t&gt;</title>" in page
    monkeypatch.delitem(sys.modules, "greeting_pages")


def test_a_missing_value_or_template_is_an_error():
    import jinja2

    with pytest.raises(jinja2.UndefinedError):
        render("mi_core/page.html")
    with pytest.raises(jinja2.TemplateNotFound):
        render("mi_core/absent.html")


def test_a_page_is_written_where_asked(tmp_path):
    assert write("<p>·</p>", tmp_path / "page.html") == "<p>·</p>"
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<p>·</p>"


def test_a_frame_holds_the_page_as_text():
    shown = framed('<p class="x">&amp;</p>', "3em")
    assert shown.startswith('<iframe srcdoc="&lt;p class=&quot;x&quot;&gt;&amp;amp;&lt;/p&gt;"')
    assert visible(" ") == "·"
