# Keeps writing twenty phones of five companies to SHARDKEEPER_TABLE, each time in another version. The first argument
# limits the number of rounds.
set -eu
version=0
while [ "$version" -lt "${1:-1000000000}" ]; do
  version=$((version + 1))
  puts=""
  for company in Apple Fairphone Google Nokia Samsung; do
    for model in 1 2 3 4; do
      item="{\"Company\":{\"S\":\"$company\"},\"Model\":{\"S\":\"$model\"},\"Version\":{\"N\":\"$version\"}}"
      puts="$puts${puts:+,}{\"PutRequest\":{\"Item\":$item}}"
    done
  done
  if ! aws dynamodb batch-write-item --request-items "{\"$SHARDKEEPER_TABLE\":[$puts]}" >/dev/null; then
    # The table doesn't exist yet, or DynamoDB Local doesn't answer.
    version=$((version - 1))
    sleep 2
  fi
done
echo "wrote $version versions of 20 phones"
