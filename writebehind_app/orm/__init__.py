"""Next to the ORM: save(), querysets and the admin go on working on a buffered model."""
