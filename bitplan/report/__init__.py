"""What a person gets to see of a plan: tables for a terminal, one HTML page for everything."""

from bitplan.report.description import description_table as description_table
from bitplan.report.efforts import efforts_table as efforts_table
from bitplan.report.explanation import explanation_tables as explanation_tables
from bitplan.report.html import write_report as write_report
from bitplan.report.presets import presets_table as presets_table
from bitplan.report.stages import costs_table as costs_table
from bitplan.report.stages import curve_table as curve_table
from bitplan.report.stages import evaluation_table as evaluation_table
from bitplan.report.stages import frontier_table as frontier_table
from bitplan.report.stages import plans_table as plans_table
from bitplan.report.tables import evidence_table as evidence_table
from bitplan.report.tables import plan_table as plan_table
