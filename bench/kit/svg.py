"""A small writer of SVG: what our plots need and nothing else."""

import math
from xml.sax.saxutils import escape, quoteattr


def number(x):
    return ("%.2f" % x).rstrip("0").rstrip(".")


class Svg:
    """Elements in the order in which they are drawn. Text is in the reader's sans-serif."""

    def __init__(self, width, height, title):
        self.width, self.height = width, height
        self.parts = []
        self.title = title
        self.rect(0, 0, width, height, fill="#ffffff")

    def element(self, name, text=None, tip=None, **attributes):
        written = " ".join("%s=%s" % (key.rstrip("_").replace("_", "-"),
                                      quoteattr(number(value) if isinstance(value, float) else str(value)))
                           for key, value in attributes.items() if value is not None)
        inner = ("<title>%s</title>" % escape(tip) if tip else "") + (escape(text) if text is not None else "")
        self.parts.append("<%s %s>%s</%s>" % (name, written, inner, name) if inner else "<%s %s/>" % (name, written))

    def rect(self, x, y, width, height, **style):
        self.element("rect", x=float(x), y=float(y), width=float(width), height=float(height), **style)

    def line(self, x1, y1, x2, y2, stroke="#999999", width=1.0, dash=None, tip=None):
        self.element("line", tip=tip, x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), stroke=stroke,
                     stroke_width=float(width), stroke_dasharray=dash, stroke_linecap="round")

    def dot(self, x, y, radius, fill, tip=None):
        self.element("circle", tip=tip, cx=float(x), cy=float(y), r=float(radius), fill=fill, stroke="#ffffff",
                     stroke_width=1.0)

    def curve(self, points, stroke, width=2.0, dash=None):
        self.element("polyline", points=" ".join("%s,%s" % (number(x), number(y)) for x, y in points), fill="none",
                     stroke=stroke, stroke_width=float(width), stroke_linejoin="round", stroke_dasharray=dash)

    def text(self, x, y, text, size=12, anchor="start", fill="#333333", weight=None):
        self.element("text", text=text, x=float(x), y=float(y), font_size=size, text_anchor=anchor, fill=fill,
                     font_weight=weight)

    def render(self):
        return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" '
                'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n<title>%s</title>\n%s\n'
                "</svg>\n" % (self.width, self.height, self.width, self.height, escape(self.title), "\n".join(self.parts)))


class Linear:
    def __init__(self, low, high, begin, end):
        if high <= low:
            high = low + 1
        self.low, self.high, self.begin, self.end = low, high, begin, end

    def __call__(self, value):
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self, about=5):
        span = self.high - self.low
        step = 10 ** math.floor(math.log10(span / about))
        for factor in (1, 2, 5, 10):
            if span / (step * factor) <= about:
                step *= factor
                break
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 10) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Log:
    def __init__(self, low, high, begin, end):
        low = max(low, 1e-9)
        if high <= low:
            high = low * 2
        self.inner = Linear(math.log(low), math.log(high), begin, end)
        self.low, self.high = low, high

    def __call__(self, value):
        return self.inner(math.log(max(value, self.low)))

    def ticks(self, *_):
        """1, 2 and 5 of each decade; between those of a short axis, more."""
        result = []
        for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), (1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
            result = [step * 10.0 ** decade
                      for decade in range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
                      for step in steps if self.low * 0.999 <= step * 10.0 ** decade <= self.high * 1.001]
            if len(result) >= 3:
                break
        return result


def label(value):
    """A tick's text: 3 significant digits, thousands with k, millions with M."""
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return "%.3g%s" % (value / factor, suffix)
    return "%.3g" % value
