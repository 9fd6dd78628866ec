"""What is counted, and the page that is read: by the parser of the library, which knows the format."""

from prometheus_client.parser import text_string_to_metric_families

from posthouse.measures import Families, Histogram, Page


def test_a_value_is_counted_at_the_first_bound_that_holds() -> None:
    times = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        times.add(value)
    assert (times.counts, times.sum, times.count) == ([2, 1, 1], 10.0, 4)


def test_the_page_says_what_was_added_whatever_the_labels_are() -> None:
    families = Families()
    plain = families.gauge("plain", "Nothing.")
    named = families.counter("named_total", "By name.", "name", "other")
    took = families.histogram("took_seconds", "Time.", "name")
    hostile = 'a"b\\c\nd{}=,\u202e'
    times = Histogram((0.1, 1.0))
    times.add(0.05)
    times.add(5)
    page = Page(families)
    page.add(plain, float("inf"))
    page.add(named, 3, hostile, "x")
    page.add(took, times, hostile)
    found = {f.name: f for f in text_string_to_metric_families(page.text().decode())}
    assert {name: (f.type, f.documentation) for name, f in found.items()} == {
        "plain": ("gauge", "Nothing."),
        "named": ("counter", "By name."),
        "took_seconds": ("histogram", "Time."),
    }
    assert [(s.labels, s.value) for s in found["plain"].samples] == [({}, float("inf"))]
    assert [(s.labels, s.value) for s in found["named"].samples] == [({"name": hostile, "other": "x"}, 3)]
    rows = [(s.name, s.labels.get("le"), s.value) for s in found["took_seconds"].samples]
    assert rows == [
        ("took_seconds_bucket", "0.1", 1),
        ("took_seconds_bucket", "1.0", 1),
        ("took_seconds_bucket", "+Inf", 2),
        ("took_seconds_sum", None, 5.05),
        ("took_seconds_count", None, 2),
    ]


def test_a_metric_without_samples_is_on_the_page_all_the_same() -> None:
    families = Families()
    families.gauge("plain", "Nothing.")
    assert Page(families).text() == b"# HELP plain Nothing.\n# TYPE plain gauge\n"
