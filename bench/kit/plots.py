"""The suite's plots.

ratio   a panel for each case, a line for each contestant: the median ratio to plain Varnish as a dot with its
        interval, on a logarithmic axis on which twice and half are equally far from 1
lines   one or more panels of curves over a common axis
"""

from kit import svg

# Okabe and Ito's colours, which colour-blind readers tell apart; ours are the strong ones.
COLOURS = {
    "varnish-malloc": "#000000", "varnish-file": "#999999", "mapped": "#d55e00", "native": "#0072b2", "dual": "#009e73",
    "auto": "#cc79a7", "nginx-static": "#b8a200", "nginx-cache-tmpfs": "#e69f00", "nginx-cache-disk": "#56b4e9",
    "traffic-server": "#7f5539", "dd": "#555555",
}


def colour(name):
    return COLOURS.get(name, "#333333")


def ratio(title, subtitle, panels, better="less", bounds=None):
    """`panels`: [(case, [(contestant, (median, low, high))])]. Returns SVG text, or None without data."""
    panels = [(case, rows) for case, rows in panels if rows]
    if not panels:
        return None
    left, right, top, row, gap = 150, 144, 84, 20, 36
    width = 760
    height = top + sum(len(rows) * row + gap for _, rows in panels) + 34
    values = [v for _, rows in panels for _, interval in rows for v in interval if v > 0] or [1.0]
    low, high = min(min(values), 0.8) / 1.08, max(max(values), 1.25) * 1.08
    axis = svg.Log(low, high, left, width - right)
    page = svg.Svg(width, height, title)
    page.text(20, 28, title, size=17, weight="600")
    page.text(20, 48, subtitle, size=12, fill="#666666")
    page.text(axis(1) - 8, top - 14, "better" if better == "less" else "worse", size=11, anchor="end", fill="#666666")
    page.text(axis(1) + 8, top - 14, "worse" if better == "less" else "better", size=11, fill="#666666")
    bottom = height - 30
    for tick in axis.ticks():
        page.line(axis(tick), top - 4, axis(tick), bottom, stroke="#e8e8e8")
        page.text(axis(tick), bottom + 16, svg.label(tick), size=11, anchor="middle", fill="#666666")
    page.line(axis(1), top - 8, axis(1), bottom, stroke="#000000", width=1.4)
    y = top
    for case, rows in panels:
        page.text(20, y + 6, case, size=13, weight="600")
        begin = y
        for name, (middle, lower, upper) in rows:
            y += row
            centre = y
            tip = "%s, %s: %.3f [%.3f, %.3f]" % (case, name, middle, lower, upper)
            page.text(left - 8, centre + 4, name, size=12, anchor="end", fill=colour(name))
            page.line(axis(lower), centre, axis(upper), centre, stroke=colour(name), width=3.0, tip=tip)
            page.dot(axis(middle), centre, 5, colour(name), tip=tip)
            page.text(width - right + 56, centre + 4, "%.2f" % middle, size=12, anchor="end", weight="600")
            page.text(width - right + 62, centre + 4, "%.2f–%.2f" % (lower, upper), size=10, fill="#888888")
        bound = (bounds or {}).get(case)
        if bound and low < bound < high:
            page.line(axis(bound), begin + 8, axis(bound), y + 8, stroke="#d55e00", dash="3 3",
                      tip="bound %.2f" % bound)
        y += gap
    return page.render()


def lines(title, subtitle, panels, x_label, marks=()):
    """`panels`: [(y label, {contestant: [[x, y]]}, logarithmic)], one above the other over the same x."""
    panels = [(text, {name: points for name, points in curves.items() if points}, log) for text, curves, log in panels]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return None
    left, right, top, height, gap = 76, 30, 112, 210, 48
    width = 760
    total = top + len(panels) * (height + gap) + 20
    page = svg.Svg(width, total, title)
    page.text(20, 28, title, size=17, weight="600")
    page.text(20, 48, subtitle, size=12, fill="#666666")
    names = []
    for _, curves, _ in panels:
        names += [name for name in curves if name not in names]
    x = 20
    for name in names:
        page.line(x, 68, x + 18, 68, stroke=colour(name), width=3.0)
        page.text(x + 24, 72, name, size=12, fill=colour(name))
        x += 40 + 7 * len(name)
    xs = [point[0] for _, curves, _ in panels for points in curves.values() for point in points]
    across = svg.Linear(min(xs), max(xs), left, width - right)
    y = top
    for text, curves, log in panels:
        ys = [point[1] for points in curves.values() for point in points]
        if log:
            positive = [v for v in ys if v > 0] or [1.0]
            up = svg.Log(min(positive) / 1.2, max(positive) * 1.2, y + height, y)
        else:
            up = svg.Linear(min(0.0, min(ys)), max(ys) * 1.05 or 1.0, y + height, y)
        for tick in up.ticks():
            page.line(left, up(tick), width - right, up(tick), stroke="#e8e8e8")
            page.text(left - 8, up(tick) + 4, svg.label(tick), size=11, anchor="end", fill="#666666")
        page.text(left, y - 8, text, size=12, weight="600")
        for tick in across.ticks(8):
            page.line(across(tick), y + height, across(tick), y + height + 4)
            page.text(across(tick), y + height + 17, svg.label(tick), size=11, anchor="middle", fill="#666666")
        for at, what in marks:
            page.line(across(at), y, across(at), y + height, stroke="#d55e00", dash="4 3")
            page.text(across(at) - 18, y + height / 2, what, size=11, anchor="end", fill="#d55e00")
        for name, points in curves.items():
            drawn = [(across(px), up(py)) for px, py in points]
            page.curve(drawn, colour(name))
            if len(points) <= 12:
                for (px, py), (raw_x, raw_y) in zip(drawn, points):
                    page.dot(px, py, 3.5, colour(name), tip="%s: %s at %s" % (name, svg.label(raw_y), svg.label(raw_x)))
        y += height + gap
    page.text(width - right, y - gap + 36, x_label, size=12, anchor="end", fill="#666666")
    return page.render()
