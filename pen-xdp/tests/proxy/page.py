# Takes a page from standard input apart, and prints what is in it as JSON. Stricter than browsers:
# every element is closed where it began, no letter that begins markup stands for itself, nothing
# is loaded and nothing runs.
import html.parser
import json
import re
import sys

VOID = {"meta"}
KNOWN = set("html head title style body h1 h2 p section div span table caption thead tbody tfoot tr th td".split())
INSIDE = {
    "caption": "table", "thead": "table", "tbody": "table", "tfoot": "table",
    "tr": "thead tbody tfoot", "th": "tr", "td": "tr", "section": "body", "table": "div",
    "title": "head", "style": "head",
}


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.open, self.text, self.tables, self.said = [], "", [], []

    def handle_decl(self, decl):
        assert decl == "DOCTYPE html" and not self.open, decl

    def handle_comment(self, data):
        raise AssertionError(data)

    def handle_pi(self, data):
        raise AssertionError(data)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert set(attributes) <= {"lang", "charset", "name", "content", "class", "scope", "title", "colspan"}, attributes
        if tag in VOID:
            return
        assert tag in KNOWN, tag
        assert tag not in INSIDE or self.open[-1] in INSIDE[tag].split(), (tag, self.open)
        self.open.append(tag)
        if tag != "span":
            self.text = ""
        if tag == "table":
            self.tables.append({"head": [], "rows": [], "titles": [], "service": self.service})
        if tag == "tr" and self.open[-2] == "tbody":
            self.tables[-1]["rows"].append([])
            self.tables[-1]["titles"].append([])
        if tag == "td" and "title" in attributes:
            self.tables[-1]["titles"][-1].append(attributes["title"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
        if tag == "h2":
            self.service = self.text
        elif tag == "caption":
            self.tables[-1]["caption"] = self.text
        elif tag == "th":
            self.tables[-1]["head"].append(self.text)
        elif tag == "td" and self.open[-2] == "tbody":
            self.tables[-1]["rows"][-1].append(self.text)
        elif tag == "tr" and self.open[-1] == "tbody":
            assert len(self.tables[-1]["rows"][-1]) == len(self.tables[-1]["head"])
        elif tag in ("title", "h1", "p"):
            self.said.append(self.text)
        if tag != "span":
            self.text = ""

    def handle_data(self, data):
        style = self.open[-1:] == ["style"]
        assert style or not re.search("[<>&\"']", data), data
        assert not style or not re.search("url|import|<", data), data
        self.text += data

    def handle_entityref(self, name):
        self.text += {"amp": "&", "lt": "<", "gt": ">", "quot": '"'}[name]

    def handle_charref(self, name):
        self.text += chr(int(name))


text = sys.stdin.buffer.read().decode()
assert text.startswith("<!DOCTYPE html>\n") and text.endswith("</html>\n"), text
page = Page()
page.feed(text)
page.close()
assert page.open == [], page.open
print(json.dumps({"said": page.said, "tables": page.tables}))
