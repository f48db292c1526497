"""The threat model, as tests: who attacks, what they can reach, and what holds.

| who                                   | reaches                                        | tests                    |
|---------------------------------------|------------------------------------------------|--------------------------|
| another user of the machine           | every port and socket, /tmp, /proc             | test_other_users         |
| a web page in a browser beside it     | every port of 127.0.0.1, the session's cookie  | test_web_pages           |
| whoever reaches the API, no token     | connections, headers, bodies, the log          | test_strangers           |
| a tenant with a token, curious        | the calls, S3 and STS, with its own keys       | test_other_tenants       |
| a tenant with a token, greedy         | the threads, the memory, the time of the rest  | test_greedy_tenants      |
| whoever hands over a spool            | SQLite, drain, the user's files and token      | faults/test_security_*   |
| a server or bucket that is asked      | the asker's memory, time, token and terminal   | read/test_remote, fuzz/  |
| whoever writes the SQL of a query     | files, network, settings, memory, time         | read/test_query          |

Not an attacker here: root, and whoever already runs programs as the same user.
"""
