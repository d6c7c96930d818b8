"""One file that holds a sweep's record, results and adapters, and can be run again without its machine.

ro-crate-metadata.json     what it is, for programs (`crate`)
README.md                  the same for people (`read_me`)
record/                    the portable form of the ledger (`tunerun.ledger.portable`)
results/                   what `compare --output` writes
tuned_models/NAME/         adapters, as a runs folder has them
manifest-sha256.txt        the digest of every other file (`archive`)
"""
