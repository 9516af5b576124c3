"""The parts of the campaign (campaign.py): builds that are killed, inputs that are mutated, and a
service under load with faults."""
