"""Values as the admin shows them."""

from __future__ import annotations

from django import template

from writebehind_app.admin.display import display, inline, is_long, moment, whole
from writebehind_app.admin.names import plural

register = template.Library()
register.filter("shown", display)
register.filter("is_long", is_long)
register.filter("whole", whole)
register.filter("inline", inline)
register.filter("moment", moment)
register.filter("plural_name", plural)
