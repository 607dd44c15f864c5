"""Lists the supported values of `format`, with a regular expression for each.

Refuses to know grammars; `pattern` can turn every expression here into one.
"""

from __future__ import annotations

__all__ = ["FORMATS"]

_LONG, _SHORT = "0[13578]|1[02]", "0[469]|11"
_LEAP = "[1-9][0-9](0[48]|[2468][048]|[13579][26])|(1[26]|[2468][048]|[3579][26])00"
_DATE = (
    f"([1-9][0-9]{{3}}-(({_LONG})-(0[1-9]|[12][0-9]|3[01])|({_SHORT})-(0[1-9]|[12][0-9]|30)"
    f"|02-(0[1-9]|1[0-9]|2[0-8]))|({_LEAP})-02-29)"
)
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](\.[0-9]{{1,9}})?(Z|[+-]{_CLOCK})"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HEX = "[0-9a-fA-F]"
_SPAN = "([0-9]+Y([0-9]+M)?([0-9]+D)?|[0-9]+M([0-9]+D)?|[0-9]+D)"
_HOURS = "([0-9]+H([0-9]+M)?([0-9]+S)?|[0-9]+M([0-9]+S)?|[0-9]+S)"

FORMATS: dict[str, str] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "duration": f"^P(({_SPAN})(T{_HOURS})?|T{_HOURS}|[0-9]+W)$",
    "email": rf"^[a-zA-Z0-9_%+-]+(\.[a-zA-Z0-9_%+-]+)*@({_LABEL}\.)+[a-zA-Z]{{2,24}}$",
    "hostname": rf"^{_LABEL}(\.{_LABEL})*$",
    "ipv4": rf"^({_OCTET}\.){{3}}{_OCTET}$",
    "ipv6": f"^(({_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}|({_HEX}{{1,4}}:){{1,6}}(:{_HEX}{{1,4}}){{1}}|::1|::)$",
    "uri": r"^[a-zA-Z][a-zA-Z0-9+.-]*://[a-zA-Z0-9._~:/?#@!$&'()*+,;=%-]+$",
    "uuid": f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$",
}
