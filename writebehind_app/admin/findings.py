"""What the doctor finds, with a link to the page of the admin that mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.utils.http import urlencode
from django.utils.translation import gettext as _

from writebehind_app import registry
from writebehind_app.admin.names import plural
from writebehind_app.doctor.finding import Finding


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding on a page. Without a page that mends it, `do` is what the doctor says."""

    finding: Finding
    what: str
    do: str
    url: str = ""
    link: str = ""


def shown(finding: Finding, url_of: Callable[..., str]) -> Shown:
    """The finding in the words of the admin. `url_of` makes the address of a page by its name."""
    buffer = registry.buffers().get(finding.buffer)
    if buffer is None:
        return Shown(finding, finding.what, finding.do)
    what = finding.what.replace(buffer.label, plural(buffer), 1)
    entries = url_of("dashboard_entries", buffer.label)
    match finding.id:
        case "writebehind.W130":
            do = _("Flush the buffer, and see to it that a flusher runs.")
            return Shown(finding, what, do, entries, _("See what is pending"))
        case "writebehind.W137":
            do = _("Resume the buffer once the cause is mended.")
            return Shown(finding, what, do, entries, _("See what is pending"))
        case "writebehind.W131":
            query = urlencode({"buffer": buffer.label, "database": buffer.layout().using})
            do = _("Correct and retry them, or discard them.")
            url = f"{url_of('deadletter_changelist')}?{query}"
            return Shown(finding, what, do, url, _("See the dead letters"))
        case "writebehind.W133":
            do = _("The batch is tried again by itself. If the error stays, see to its cause.")
            return Shown(finding, what, do, f"{entries}?state=retrying", _("See the batch"))
    return Shown(finding, what, finding.do)
