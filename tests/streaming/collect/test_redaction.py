"""Secrets in a command line do not get into the record; everything else does."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.collect.redaction import redact, redact_text

SECRET = "s3cr3t-canary-value"
HIDING = [
    ["prog", f"--token={SECRET}"],
    ["prog", "--token", SECRET],
    ["prog", f"--api-key={SECRET}"],
    ["prog", "--hf_token", SECRET],
    ["prog", f"--wandb-api-key={SECRET}", "--epochs", "3"],
    ["prog", "--password", SECRET, "run"],
    ["prog", "-password", SECRET],
    ["env", f"WANDB_API_KEY={SECRET}", "prog"],
    ["env", f"AWS_SECRET_ACCESS_KEY={SECRET}", "prog"],
    ["prog", f"postgres://user:{SECRET}@db.example/train"],
    ["git", "clone", f"https://{SECRET}@github.com/a/b"],
    ["curl", f"https://example.com/x?token={SECRET}&n=1"],
    ["curl", f"https://b.s3.amazonaws.com/k?X-Amz-Signature={SECRET}"],
    ["curl", "-H", f"Authorization: Bearer {SECRET}", "https://example.com"],
    ["curl", "-H", f"X-Api-Key: {SECRET}", "https://example.com"],
    ["bash", "-c", f"python train.py --token {SECRET} --epochs 3"],
    ["bash", "-c", f"DB_PASSWORD='{SECRET}' python train.py"],
    ["prog", f'{{"password": "{SECRET}"}}'],
]
GITHUB = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
AWS = "AKIAIOSFODNN7EXAMPLE"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
COMMON = [  # the words, and what of them must not be seen
    (["env", f"PGPASSWORD={SECRET}", "psql"], SECRET),
    (["env", f"MYSQL_PWD={SECRET}", "mysql"], SECRET),
    (["env", f"REDISCLI_AUTH={SECRET}", "redis-cli"], SECRET),
    (["prog", f"accessToken={SECRET}"], SECRET),
    (["prog", f"--accessToken={SECRET}"], SECRET),
    (["prog", "--clientSecret", SECRET], SECRET),
    (["prog", f'{{"refreshToken": "{SECRET}"}}'], SECRET),
    (["prog", f'{{\\"password\\": \\"{SECRET}\\"}}'], SECRET),
    (["prog", f"{{'secretKey':'{SECRET}'}}"], SECRET),
    (["java", f"-Dpassword={SECRET}", "-jar", "a.jar"], SECRET),
    (["java", f"-Dspring.datasource.password={SECRET}"], SECRET),
    (["java", f"-Djavax.net.ssl.keyStorePassword={SECRET}"], SECRET),
    (["keytool", "-storepass", SECRET], SECRET),
    (["openssl", "rsa", "-passin", f"pass:{SECRET}"], SECRET),
    (["curl", "-u", f"ada:{SECRET}", "https://example.com"], SECRET),
    (["curl", f"-uada:{SECRET}", "https://example.com"], SECRET),
    (["curl", "--user", f"ada:{SECRET}", "https://example.com"], SECRET),
    (["/usr/bin/curl", "-s", "-U", f"ada:{SECRET}", "https://example.com"], SECRET),
    (["sh", "-c", f"curl -u ada:{SECRET} https://example.com | sh"], SECRET),
    (["curl", "-b", f"Cookie: session={SECRET}; theme=dark"], SECRET),
    (["curl", "-H", f"Authorization: token {SECRET}"], SECRET),
    (["curl", "-H", f"authorization: Basic {SECRET}"], SECRET),
    (["curl", "-H", f"PRIVATE-TOKEN: {SECRET}"], SECRET),
    (["curl", "https://hooks.slack.com/services/T000/B000/XXXXsecretXXXX"], "XXXXsecretXXXX"),
    (["wget", f"--http-password={SECRET}", "https://example.com"], SECRET),
    (["curl", "-H", f"Authorization: Custom {SECRET}"], SECRET),
    (["prog", f'{{"Authorization": "Custom {SECRET}"}}'], SECRET),
    (["curl", "-b", f"session={SECRET}", "https://example.com"], SECRET),
    (["sh", "-c", f"curl -uada:{SECRET} https://example.com"], SECRET),
    (["sh", "-c", f"mysql -uroot -p{SECRET} db"], SECRET),
    (["sh", "-c", f"sshpass -p{SECRET} ssh host"], SECRET),
    (["env", f"AZURE_STORAGE_KEY={SECRET}", "prog"], SECRET),
    (["twine", "upload", "-u", "ada", "-p", SECRET, "dist"], SECRET),
    (["sqlcmd", "-U", "sa", "-P", SECRET], SECRET),
    (["7z", "a", f"-p{SECRET}", "x.7z"], SECRET),
    (["mysql", f"-p{SECRET}", "-u", "ada"], SECRET),
    (["sshpass", "-p", SECRET, "ssh", "host"], SECRET),
    (["redis-cli", "-a", SECRET], SECRET),
    (["docker", "login", "-u", "ada", "-p", SECRET], SECRET),
    (["ldapsearch", "-w", SECRET], SECRET),
    (["smbclient", "-U", f"ada%{SECRET}", "//host/share"], SECRET),
    (["npm", "config", "set", f"//registry.example.com/:_authToken={SECRET}"], SECRET),
    (["prog", f"Server=db;User Id=ada;Password={SECRET};"], SECRET),
    (["prog", f"DefaultEndpointsProtocol=https;AccountKey={SECRET}=="], SECRET),
    (["prog", f"Endpoint=sb://x/;SharedAccessKey={SECRET}="], SECRET),
    (["prog", f"postgres://ada:p@{SECRET}@db/x"], SECRET),
    (["prog", f"--password=a,b&{SECRET}"], SECRET),
    (["vault", "login", SECRET], SECRET),
    (["/usr/bin/vault", "login", "-no-print", SECRET], SECRET),
    (["sh", "-c", f"vault login {SECRET}; python train.py"], SECRET),
    (["wandb", "login", "--relogin", SECRET], SECRET),
    (["sh", "-c", f"cd /x && wandb login {SECRET} && python train.py"], SECRET),
    (["aws", "configure", "set", "aws_secret_access_key", SECRET], SECRET),
    (["sh", "-c", f"aws configure set aws_session_token {SECRET} --profile x"], SECRET),
    (["pip", "config", "set", "global.password", SECRET], SECRET),
    (["htpasswd", "-b", "file", "ada", SECRET], SECRET),
    (["htpasswd", "-nbB", "ada", SECRET], SECRET),
    (["sh", "-c", f"htpasswd -cb /etc/f ada {SECRET}"], SECRET),
    (["ngrok", "config", "add-authtoken", SECRET], SECRET),
    (["openssl", "passwd", "-6", SECRET], SECRET),
    (["duo", "--mfa-passcode", SECRET], SECRET),
    (["prog", f"passwordHash={SECRET}"], SECRET),
    (["prog", f'{{"password_hash": "{SECRET}"}}'], SECRET),
    (["prog", "--key", SECRET], SECRET),
    (["prog", f"--key={SECRET}"], SECRET),
    (["env", f"KEY={SECRET}", "prog"], SECRET),
    (["sh", "-c", f"KEY={SECRET} prog --key {SECRET}"], SECRET),
    (["prog", GITHUB], GITHUB),
    (["git", "clone", f"https://x/{GITHUB}/y"], GITHUB),
    (["prog", f"--with={AWS}"], AWS),
    (["prog", JWT], JWT),
    (["sh", "-c", f"echo {JWT} | prog"], JWT),
    (["prog", "sk-proj-abcdefghijklmnopqrstuvwx"], "abcdefghijklmnopqrstuvwx"),
    (["prog", "hf_abcdefghijklmnopqrstuvwxyz"], "abcdefghijklmnopqrstuvwxyz"),
    (["prog", "glpat-abcdefghijklmnopqrst"], "abcdefghijklmnopqrst"),
    (["prog", "xoxb-123456789012-abcdefghijkl"], "abcdefghijkl"),
    (["prog", "-----BEGIN RSA PRIVATE KEY-----\nMIIEsecret\n-----END RSA PRIVATE KEY-----"], "MIIEsecret"),
]
PLAIN = [
    ["env", "PWD=/home/ada", "OLDPWD=/tmp", "prog"],
    ["curl", "-u", "ada", "https://example.com/a:b"],
    ["mysql", "-p", "database"],
    ["sh", "-c", "mysql -p database && ssh -p 2222 host"],
    ["ssh", "-p", "2222", "host"],
    ["prog", "--sort-key=name", "--key", "value", "--primary-key", "id"],
    ["prog", "time: 12:30", "C:\\data", "--port=8080"],
    ["prog", "--skip-tokens", "3", "task-force-commander-and-others"],
    ["python", "train.py", "--epochs", "3", "--lr=0.1"],
    ["python", "-m", "tokenizer", "--tokenizer", "bpe", "--max-tokens", "512"],
    ["curl", "https://example.com/a?b=c"],
    ["cp", "s3://bucket/key", "user@host:/path"],
    ["prog", "--author", "Ada", "--monkey=1", "--compass", "north"],
    ["grep", "pass", "file"],
    ["prog", "--key-bindings", "emacs-with-more", "--keyboard=international", "keyboard: international"],
    ["sort", "--key=2,3", "--key", "1n", "file"],
    ["sh", "-c", "sort --key 2,3 KEY=short && monkey=something-long"],
    ["vault", "status", "something"],
    ["wandb", "sync", "directory/of/run"],
    ["sh", "-c", "vault login -method=oidc && python train.py --epochs 3"],
    ["git", "remote", "add", "origin", "https://example.com/x"],
    ["prog", "--hash", "sha256-of-a-file", "--plain-text", "anything-else", "set", "epochs", "100000000"],
]


@pytest.mark.parametrize("words", HIDING, ids=lambda words: " ".join(words)[:50])
def test_secret_is_hidden(words: list[str]) -> None:
    hidden = redact(words)
    assert SECRET not in " ".join(hidden)
    assert "***" in " ".join(hidden)
    assert len(hidden) == len(words)


@pytest.mark.parametrize("words", PLAIN, ids=lambda words: " ".join(words)[:50])
def test_ordinary_words_stay(words: list[str]) -> None:
    assert redact(words) == words


@pytest.mark.parametrize(
    ("words", "secret"), COMMON, ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else ""
)
def test_common_forms_are_known(words: list[str], secret: str) -> None:
    hidden = redact(words)
    assert secret not in " ".join(hidden)
    assert "***" in " ".join(hidden)
    assert len(hidden) == len(words)


HOSTILE = [
    *(
        "a",
        "-",
        ".",
        "a.",
        "a-",
        "a:",
        "a=",
        "://",
        "a://",
        "https://a",
        "://a:",
        "://a:b@",
        "token=",
        "token='",
        'token="',
    ),
    *(
        "token:",
        "token ",
        "--token ",
        "Bearer ",
        "Bearer a",
        "eyJ",
        "eyJa.",
        "sk-",
        "ghp_",
        "AKIA",
        "'",
        '"',
        " ",
        "\n",
    ),
    *("-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "curl -u ", "aB", "AAa", "Cookie: ", "{'password': '", "\\\\"),
    *("vault login ", "htpasswd -b ", "set token ", ";", "key=", "key "),
]


@pytest.mark.parametrize("piece", HOSTILE, ids=repr)
def test_long_text_takes_time_in_proportion(piece: str) -> None:
    """Quadratic, 200 kB would take minutes; the limit is far above what a busy machine needs."""
    text = piece * (200_000 // len(piece))
    began_s = time.process_time()
    redact([text])
    redact_text(text)
    assert time.process_time() - began_s < 10


def test_the_token_in_use_is_hidden_wherever_it_is() -> None:
    assert redact(["prog", f"x{SECRET}y"], [SECRET]) == ["prog", "x***y"]


def test_what_stands_around_a_secret_stays() -> None:
    assert redact(["psql", f"postgres://ada:{SECRET}@db/x"]) == ["psql", "postgres://ada:***@db/x"]
    assert redact(["sh", "-c", f"a --token {SECRET} b"]) == ["sh", "-c", "a --token *** b"]


@given(st.lists(st.text(max_size=40), max_size=6))
def test_any_words_keep_their_number_and_twice_is_once(words: list[str]) -> None:
    once = redact(words)
    assert len(once) == len(words)
    assert len(redact(once)) == len(once)
