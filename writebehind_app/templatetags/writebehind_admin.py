"""Values as the admin shows them."""

from __future__ import annotations

from django import template

from writebehind_app.admin.shown import inline, is_long, moment, shown, whole

register = template.Library()
register.filter("shown", shown)
register.filter("is_long", is_long)
register.filter("whole", whole)
register.filter("inline", inline)
register.filter("moment", moment)
