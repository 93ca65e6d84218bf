"""What a person gets to see of a plan: tables for a terminal, one HTML page for everything."""

from bitplan.report.html import write_report as write_report
from bitplan.report.tables import evidence_table as evidence_table
from bitplan.report.tables import plan_table as plan_table
