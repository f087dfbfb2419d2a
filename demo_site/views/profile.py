"""The profile of whoever is logged in, and who was seen lately."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from demo_site.systems.people import LEARNERS
from demo_site.systems.profiles import LOCALES
from demo_site.views.common import Pair, page, pairs, receipt
from writebehind_app import Merge
from writebehind_app.meta import services
from writebehind_app.meta.models import UserProfile

_SHOWN = ("display_name", "bio", "locale", "preferences", "last_seen_at")
_TEXTS = ("display_name", "bio", "locale")


class ProfileForm(forms.Form):
    display_name = forms.CharField(max_length=150, required=False)
    bio = forms.CharField(
        label="About you",
        max_length=2000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    locale = forms.ChoiceField(
        label="Language",
        choices=[("", "not said"), *((name, name) for name in LOCALES)],
        required=False,
    )
    digest = forms.BooleanField(label="Send me a weekly digest", label_suffix="", required=False)


@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    return (_change if request.method == "POST" else _show)(request)


def _show(request: HttpRequest, form: ProfileForm | None = None) -> HttpResponse:
    context: dict[str, Any] = {"seen": _seen()}
    if request.user.is_authenticated:
        stored = UserProfile.objects.filter(user=request.user).first()
        pair = Pair(services.profile(request.user), stored)
        context |= {
            "pair": pair,
            "fields": pair.fields(_SHOWN),
            "form": form or ProfileForm(initial=_initial(pair.now)),
            "where": receipt(request, UserProfile.buffered, str(request.user.pk)),
        }
    return page(request, "profile", "profile", **context)


def _change(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return redirect_to_login(request.path)
    form = ProfileForm(request.POST, initial=_initial(services.profile(request.user)))
    if not form.is_valid():
        return _show(request, form)
    changed = {name: form.cleaned_data[name] for name in form.changed_data if name in _TEXTS}
    if "digest" in form.changed_data:
        changed["preferences"] = Merge({"digest": form.cleaned_data["digest"]})
    where = reverse("profile")
    if changed:
        where = f"{where}?write={services.update_profile(request.user, **changed).number}"
    return redirect(where)


def _initial(profile: UserProfile) -> dict[str, Any]:
    texts = {name: getattr(profile, name) for name in _TEXTS}
    return {**texts, "digest": profile.preferences.get("digest")}


def _seen() -> list[Pair]:
    """The people of the simulation, whoever was seen last first."""
    rows = UserProfile.objects.filter(user__username__in=LEARNERS).select_related("user")
    found = [pair for pair in pairs(UserProfile.buffered, rows) if pair.now.last_seen_at]
    return sorted(found, key=lambda pair: pair.now.last_seen_at, reverse=True)
