from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from django.views.generic import RedirectView

from demo_site.systems import SYSTEMS
from demo_site.views import appointments, common, events, lessons, profile, tickets

urlpatterns = [
    path("", RedirectView.as_view(pattern_name=SYSTEMS[0].view), name="home"),
    path("lessons/", lessons.lessons, name="lessons"),
    path("lessons/<int:lesson_id>/", lessons.lesson, name="lesson"),
    path("lessons/<int:lesson_id>/finish/", lessons.finish, name="finish"),
    path("lessons/<int:lesson_id>/state.json", lessons.state, name="lesson-state"),
    path("events/", events.events, name="events"),
    path("events/<int:event_id>/", events.event, name="event"),
    path("tickets/", tickets.tickets, name="tickets"),
    path("tickets/<int:ticket_id>/", tickets.ticket, name="ticket"),
    path("tickets/<int:ticket_id>/resolve/", tickets.resolve, name="resolve"),
    path("appointments/", appointments.board, name="appointments"),
    path("profile/", profile.profile, name="profile"),
    path("api/", include("writebehind_app.meta.urls")),
    path("figures.json", common.live_figures, name="figures"),
    path("login/", LoginView.as_view(template_name="demo_site/login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
]
