"""x"""


def write_report(rows, out):
    print(len(rows))
