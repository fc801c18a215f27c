# Creates the table named by SHARDKEEPER_TABLE with a stream, and waits until it can be used.
set -eu
if ! aws dynamodb describe-table --table-name "$SHARDKEEPER_TABLE" >/dev/null 2>&1; then
  aws dynamodb create-table --table-name "$SHARDKEEPER_TABLE" \
    --attribute-definitions AttributeName=Company,AttributeType=S AttributeName=Model,AttributeType=S \
    --key-schema AttributeName=Company,KeyType=HASH AttributeName=Model,KeyType=RANGE \
    --billing-mode PAY_PER_REQUEST \
    --stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES >/dev/null
fi
aws dynamodb wait table-exists --table-name "$SHARDKEEPER_TABLE"
echo "table $SHARDKEEPER_TABLE is there"
