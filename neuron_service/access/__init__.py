"""Who may ask for what. Decides, and answers nothing: `neuron_service.http_rules` asks here and acts.

hosts      which `Host` and `Origin` a request may name
networks   where a request comes from, and which places are trusted
keys       API keys: their file, their hashes, who has one
scopes     what a key must be allowed to do for a request
entrance   from all of these to a `Caller`, or to a refusal
setup      from the configuration to the rules of the entrance
keys_file  changes the file of keys
"""
