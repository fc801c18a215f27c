#!/bin/bash
# Creates the table Phones with its stream when DynamoDB answers, and writes to it while it runs.
set -u

until aws dynamodb list-tables >/dev/null 2>&1; do sleep 1; done
aws dynamodb create-table --table-name Phones \
  --attribute-definitions AttributeName=Company,AttributeType=S AttributeName=Model,AttributeType=S \
  --key-schema AttributeName=Company,KeyType=HASH AttributeName=Model,KeyType=RANGE \
  --billing-mode PAY_PER_REQUEST \
  --stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES >/dev/null 2>&1
aws dynamodb wait table-exists --table-name Phones || exit 1
echo "writing to Phones"

companies=(Nokia Siemens Motorola Ericsson Palm)
turn=0
while true; do
  turn=$((turn + 1))
  puts=""
  for model in {1..25}; do
    company=${companies[$((model % ${#companies[@]}))]}
    item="{\"Company\":{\"S\":\"$company\"},\"Model\":{\"S\":\"$model\"},\"Changes\":{\"N\":\"$turn\"}}"
    puts="$puts${puts:+,}{\"PutRequest\":{\"Item\":$item}}"
  done
  aws dynamodb batch-write-item --request-items "{\"Phones\":[$puts]}" >/dev/null || sleep 1
done
