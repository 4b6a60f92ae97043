"""`crosspoint bench pick`: clicks become lifted objects in MuJoCo, scored."""
