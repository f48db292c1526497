"""Rows as Arrow tables: one schema, one reader of CSV, one place where figures and charts are computed.

Shared by what people ask on their own machine (`streaming.read`) and by the server. Knows neither a spool nor a network.
"""
