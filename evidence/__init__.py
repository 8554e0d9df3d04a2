"""What proves the claims: certificate, resilience, fuzzing, benchmark."""
