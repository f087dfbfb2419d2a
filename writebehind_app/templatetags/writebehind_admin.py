"""Values as the admin shows them."""

from __future__ import annotations

from django import template

from writebehind_app.admin.shown import inline, moment, shown

register = template.Library()
register.filter("shown", shown)
register.filter("inline", inline)
register.filter("moment", moment)
