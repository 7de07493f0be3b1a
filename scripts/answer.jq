# answer.jq - an answer of POST /recall for people, items grouped by the interest that found
# them: curl ... | jq -rf scripts/answer.jq. With "explain": true in the request each
# interest says which items of the history formed it.

def fixed: . * 1000 | round / 1000 | tostring | (if contains(".") then . else . + "." end) + "000"
    | capture("(?<v>^-?[0-9]+[.][0-9]{3})").v;

def formed_by($k):
    [(.explain.interests // [])[] | select(.interest == $k) | .history[]]
    | sort_by(-.weight) | .[:6]
    | map("\(.id) \(.weight | fixed)") | join(", ");

def group($answer):
    .[0].interest as $k
    | "  interest \($k)" + ($answer | formed_by($k) | if . == "" then "" else ", from " + . end),
      (.[] | "    \(.score | fixed)  \(.id)");

. as $answer
| (if .source == "model" then (.items | group_by(.interest) | sort_by(-.[0].score)[] | group($answer))
   else "  \(.source):", (.items[] | "    \(.id)") end),
  "  (\(.bundle): \(.history) known items, \(.interests) interests, \(.took_us) microseconds"
    + (if .degraded == [] then "" else ", " + (.degraded | join(" ")) end) + ")"
