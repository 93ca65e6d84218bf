"""The page where people see jobs: HTML shells and ES modules that speak to the HTTP API alone."""

from bitplan.service.page.page import add_page as add_page
